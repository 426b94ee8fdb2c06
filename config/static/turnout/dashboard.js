// Draws the front page from one snapshot and again from each that follows.
(() => {
  "use strict";
  const { ago, badge, bar, empty, fill, h, key, number, poll, read, svg, until, word } = window.Turnout;
  const root = document.getElementById("dashboard");

  const card = (span, title, note, ...body) =>
    h(`section.t-card.t-span-${span}`, {}, h("header", {}, h("h2", {}, title), note ? h("span.t-dim", {}, note) : ""), ...body);

  const tile = (data) =>
    h("a.t-card.t-tile.t-span-3", { href: data.url, "data-tone": data.tone || "" }, h("span.t-dim", {}, data.title), h("strong", {}, number(data.value)), h("span.t-dim", {}, data.note));

  const sum = (counts, states) => states.reduce((total, state) => total + (counts[state] || 0), 0);

  const broadcast = (row, platform) => {
    const left = sum(row.counts, ["queued", "claimed", "sending"]);
    const share = row.total ? Math.floor((100 * (row.total - left)) / row.total) : 0;
    const note = row.state === "scheduled" ? `starts ${until(row.scheduled_at)}` : `${number(row.total - left)} of ${number(row.total)} · ${share} %`;
    return h("li", {},
      h("div.t-row", {}, h("a", { href: row.url }, row.name), badge(row.state), row.why ? h("span.t-dim", {}, row.why) : "", h("span.t-end.t-dim.t-num", {}, note)),
      h("div.t-row", {}, h("span.t-dim", {}, platform ? `${row.tenant} · ${row.sender}` : row.sender)),
      h("div", { class: "mt-2" }, bar(row.counts, row.total)));
  };

  const use = (lane) => {
    if (!lane.allowance) return "";
    const share = lane.used / lane.allowance;
    const tone = share >= 1 ? "full" : share >= 0.8 ? "near" : "used";
    return h("div.t-use", {}, h("span.t-dim.t-num", {}, `${number(lane.used)} of ${number(lane.allowance)}, resets ${until(lane.resets_at)}`),
      svg("svg", { class: "t-bar", viewBox: "0 0 100 1", preserveAspectRatio: "none" }, svg("rect", { width: 100 * Math.min(1, share), height: 1, class: `t-fill-${tone}` })));
  };

  const lane = (row, platform) =>
    h("li", {}, h("div.t-row", {}, h("a", { href: row.url }, row.name), h("span.t-end", {}, badge("warning", row.why))), h("div.t-dim", {}, platform ? `${row.queue} · ${row.tenant}` : row.queue), use(row));

  const incident = (row, platform) =>
    h("li", {},
      h("div.t-row", {}, badge(row.severity), platform && row.tenant ? h("span.t-dim", {}, row.tenant) : "", h("span.t-end.t-dim", {}, ago(row.opened_at))),
      h("a", { href: row.url }, row.summary));

  const cluster = (row) =>
    h("li", {}, h("div.t-row", {}, h("span.t-strong", {}, row.name), badge(row.alive ? "done" : "lost", row.alive ? "alive" : "silent"), h("span.t-end.t-dim", {}, ago(row.at))));

  const queue = (row) =>
    h("tr", {},
      h("td.t-strong", {}, row.queue), h("td.t-num", {}, number(row.depth) + (row.capped ? "+" : "")), h("td", {}, row.oldest ? ago(row.oldest) : "none waiting"),
      h("td", {}, row.run ? h("a", { href: row.run.url }, row.run.state === "running" ? "running now" : ago(row.run.at)) : "never"),
      h("td.t-num", {}, row.run ? `${number(row.run.rate)}/s` : ""), h("td.t-num", {}, row.run ? number(row.run.done) : ""), h("td.t-num", {}, row.run ? number(row.run.failed) : ""));

  const queues = (rows) =>
    h("div.t-scroll", {}, h("table.t-table", {},
      h("thead", {}, h("tr", {}, ["Queue", "Waiting", "Oldest", "Last run", "Rate", "Done", "Failed"].map((name, at) => h(at === 1 || at > 3 ? "th.t-num" : "th", {}, name)))),
      h("tbody", {}, rows.map(queue))));

  const chart = (hours) => {
    const top = Math.max(1, ...hours.map((hour) => hour.done + hour.failed + hour.in_doubt));
    const bars = hours.flatMap((hour, at) => {
      let y = 100;
      return ["done", "failed", "in_doubt"].map((state) => {
        const height = (96 * hour[state]) / top;
        y -= height;
        const time = new Date(hour.hour).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
        return svg("rect", { x: at * 10 + 1.5, y, width: 7, height, rx: 0.8, class: `t-fill-${state === "done" ? "delivered" : state}` }, svg("title", {}, `${time}: ${number(hour[state])} ${word(state)}`));
      });
    });
    const base = svg("rect", { x: 0, y: 99.5, width: 240, height: 0.5, class: "t-fill-queued" });
    return h("div", {}, svg("svg", { class: "t-chart", viewBox: "0 0 240 100", preserveAspectRatio: "none", role: "img", "aria-label": "Rows settled by hour over the last day" }, base, ...bars),
      h("div.t-axis", {}, h("span", {}, "24 hours ago"), h("span", {}, `busiest hour: ${number(top)}`), h("span", {}, "now")));
  };

  const show = (data) => {
    if (!data.tiles) return;
    const day = Object.values(data.day).reduce((total, n) => total + n, 0);
    const left = [
      card(7, "Broadcasts under way", "", data.broadcasts.length ? h("ul.t-rows", {}, data.broadcasts.map((row) => broadcast(row, data.platform))) : empty("campaign", "Nothing is going out. Launch a broadcast and watch it here.")),
      card(7, "Messages of the last 24 hours", `${number(day)} launched`, h("div.t-body", {}, day ? [bar(data.day, day, true), key(data.day)] : empty("chat", "No broadcast was launched in the last 24 hours."))),
    ];
    const right = [
      card(5, "Open incidents", "", data.incidents.length ? h("ul.t-rows", {}, data.incidents.map((row) => incident(row, data.platform))) : empty("check_circle", "No incident is open.")),
      card(5, "Lanes held back", "", data.lanes.length ? h("ul.t-rows", {}, data.lanes.map((row) => lane(row, data.platform))) : empty("fork_right", "Every lane is free to send.")),
    ];
    if (data.platform) {
      left.push(card(7, "Settled by hour", "all queues that call vendors", h("div.t-body", {}, chart(data.hours))));
      right.push(card(5, "Clusters", "last heartbeat", data.clusters.length ? h("ul.t-rows", {}, data.clusters.map(cluster)) : empty("monitor_heart", "No cluster has reported yet.")));
    }
    const page = [...data.tiles.map(tile), h("div.t-span-7.t-stack", {}, left), h("div.t-span-5.t-stack", {}, right)];
    if (data.platform) page.push(card(12, "Queues", "", queues(data.queues)));
    fill(root, page);
  };

  show(read("snapshot"));
  poll(root.dataset.live, 2000, show);
})();
