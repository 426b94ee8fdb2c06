// A broadcast's progress: bars by state, whole and per step, its rate and what is left; asked for every second.
(() => {
  "use strict";
  const { badge, bar, duration, fill, h, key, number, poll, read } = window.Turnout;
  const root = document.getElementById("broadcast");
  const ENDED = ["completed", "cancelled"];

  const stat = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const left = (data) => data.queued + data.sending;
  const share = (data) => (data.total ? Math.floor((100 * (data.total - left(data))) / data.total) : 0);

  const eta = (data) => {
    if (ENDED.includes(data.state)) return data.state;
    if (data.state === "paused" || data.held_by) return "stands still";
    return data.eta_seconds === null ? "–" : duration(data.eta_seconds);
  };

  const step = (row) =>
    h("li", {},
      h("div.t-row", {}, h("span.t-dim.t-num", {}, `${row.position}.`), h("span.t-strong", {}, row.name), badge(row.state), h("span.t-dim", {}, `${row.share} % of the audience`), h("span.t-end.t-dim.t-num", {}, `${number(row.total - left(row))} of ${number(row.total)} · ${share(row)} %`)),
      row.pause_detail ? h("p.t-dim", {}, row.pause_detail) : "",
      h("div", { class: "mt-2" }, bar(row, row.total)));

  const show = (data) => {
    const accepted = data.accepted + data.sent + data.delivered + data.read;
    const link = h("a.t-dim", { href: root.dataset.messages }, "See its messages");
    fill(root, [
      h("section.t-card", {},
        h("header", {}, h("h2", {}, "Progress"), badge(data.state), link),
        h("div.t-body", {},
          h("dl.t-stats", {}, stat("Dealt with", `${share(data)} %`), stat("Messages", number(data.total)), stat("Taken by the vendor", number(accepted)), stat("Left", number(left(data))), stat("Per second", number(data.rate_per_second)), stat("Time left", eta(data))),
          h("div", { class: "mt-4" }, bar(data, data.total, true)), key(data))),
      ...(data.steps.length > 1 || data.steps.some((row) => row.pause_detail)
        ? [h("section", { class: "t-card mt-4" }, h("header", {}, h("h2", {}, "Steps")), h("ul.t-rows", {}, data.steps.map(step)))]
        : []),
    ]);
    root.dataset.done = data.total - left(data);
    // The buttons and the note above belong to the state in which the page was made.
    if ((data.state !== root.dataset.state || data.held_by !== root.dataset.held) && !document.querySelector("dialog[open]")) {
      root.dataset.state = data.state;
      root.dataset.held = data.held_by;
      window.location.reload();
    }
  };

  show(read("progress"));
  // Statuses go on coming after the last message has left, so a completed one is still asked for, less often.
  poll(root.dataset.live, ENDED.includes(root.dataset.state) ? 5000 : 1000, show);
})();
