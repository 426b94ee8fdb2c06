// What the dashboard and the broadcast page share: building nodes, bars, words for times, and polling.
window.Turnout = (() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const STATES = ["read", "delivered", "sent", "accepted", "sending", "claimed", "in_doubt", "failed", "suppressed", "cancelled", "queued"];
  const TONES = { running: "info", scheduled: "info", paused: "warning", waiting: "", done: "success", completed: "success", failed: "danger", lost: "danger", critical: "danger", warning: "warning" };

  // h("p.t-dim", {title: "…"}, "text", node …): text is always set as text, never parsed as HTML.
  const h = (name, attributes = {}, ...children) => {
    const [tag, ...classes] = name.split(".");
    const node = document.createElement(tag);
    if (classes.length) node.className = classes.join(" ");
    for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(key, value);
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  };

  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };

  const number = (value) => Number(value || 0).toLocaleString("en-GB");
  const word = (state) => state.replace("_", " ");
  const badge = (state, text = word(state)) => h("span.t-badge", { "data-tone": TONES[state] || "" }, text);
  const icon = (name) => h("span.material-symbols-outlined", { "aria-hidden": "true" }, name);
  const empty = (name, text) => h("p.t-empty", {}, icon(name), text);

  const duration = (seconds) => {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${whole} s`;
    if (whole < 300) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
    if (whole < 3600) return `${Math.round(whole / 60)} min`;
    if (whole < 172800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
    return `${Math.round(seconds / 86400)} days`;
  };
  const ago = (iso) => (iso ? `${duration((Date.now() - Date.parse(iso)) / 1000)} ago` : "never");
  const until = (iso) => (iso ? `in ${duration((Date.parse(iso) - Date.now()) / 1000)}` : "");

  // One bar of shares: [{state, n}] over total.
  const bar = (counts, total, tall = false) => {
    let x = 0;
    const parts = STATES.filter((state) => counts[state]).map((state) => {
      const width = (100 * counts[state]) / Math.max(1, total);
      const part = svg("rect", { x, y: 0, width, height: 1, class: `t-fill-${state}` }, svg("title", {}, `${word(state)}: ${number(counts[state])}`));
      x += width;
      return part;
    });
    return svg("svg", { class: tall ? "t-bar t-tall" : "t-bar", viewBox: "0 0 100 1", preserveAspectRatio: "none", role: "img", "aria-label": STATES.filter((s) => counts[s]).map((s) => `${word(s)} ${counts[s]}`).join(", ") || "nothing yet" }, ...parts);
  };

  const key = (counts, states = STATES) =>
    h("ul.t-key", {}, states.filter((state) => counts[state]).map((state) => h("li", {}, h(`span.t-dot.t-fill-${state}`), word(state), h("b", {}, number(counts[state])))));

  // Fetch an address again and again while the page is looked at. Slower after an error, and says so.
  const poll = (url, every, show, { done = () => false } = {}) => {
    const lost = document.getElementById("lost");
    let wait = every;
    const turn = async () => {
      if (document.hidden) return setTimeout(turn, every);
      try {
        const answer = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin", redirect: "error" });
        if (!answer.ok) throw new Error(answer.status);
        const data = await answer.json();
        show(data);
        wait = every;
        if (lost) lost.hidden = true;
        if (done(data)) return undefined;
      } catch (error) {
        wait = Math.min(30000, wait * 2);
        if (lost) lost.hidden = false;
      }
      return setTimeout(turn, wait);
    };
    setTimeout(turn, every);
  };

  // Make `old` like `fresh`, keeping the nodes: a link under the pointer stays, a bar glides to its new width.
  const morph = (old, fresh) => {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return undefined;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    fill(old, [...fresh.childNodes]);
    return undefined;
  };
  const fill = (parent, wanted) => {
    const present = [...parent.childNodes];
    wanted.forEach((fresh, at) => (present[at] ? morph(present[at], fresh) : parent.append(fresh)));
    present.slice(wanted.length).forEach((node) => node.remove());
  };

  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  return { STATES, ago, badge, bar, duration, empty, fill, h, icon, key, number, poll, read, svg, until, word };
})();
