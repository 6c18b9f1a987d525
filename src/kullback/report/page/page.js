"use strict";
/* The passages of a page: prompts that are sorted and searched, and tokens in the colours of a channel. */
(() => {
  const holder = document.getElementById("passages-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const at = (id) => document.getElementById(id);
  const state = { passage: 0, channel: 0, token: -1, sort: "value", up: false, search: "" };

  /* The state stands behind the # of the address, so that a link leads to what was seen. */
  const readState = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    const number = (name, end) => {
      const value = Number.parseInt(given.get(name) ?? "", 10);
      return value >= 0 && value < end ? value : undefined;
    };
    state.passage = number("passage", data.passages.length) ?? state.passage;
    state.channel = number("channel", data.channels.length) ?? state.channel;
    state.token = number("token", data.passages[state.passage]?.tokens.length ?? 0) ?? -1;
    if (["text", "value", "count"].includes(given.get("sort"))) state.sort = given.get("sort");
    state.up = given.get("up") === "1";
    state.search = given.get("search") ?? "";
  };
  const writeState = () => {
    const kept = new URLSearchParams({ passage: state.passage, channel: state.channel, sort: state.sort });
    if (state.token >= 0) kept.set("token", state.token);
    if (state.up) kept.set("up", "1");
    if (state.search) kept.set("search", state.search);
    history.replaceState(null, "", "#" + kept);
  };

  const shown = (value) => (value === null || value === undefined ? "–" : String(value));
  const make = (name, text) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const members = (group) => data.passages.flatMap((one, place) => (one.group === group ? [place] : []));

  const orderedGroups = () => {
    const wanted = state.search.toLowerCase();
    const places = data.groups.map((_, place) => place);
    const found = places.filter((place) => data.groups[place].text.toLowerCase().includes(wanted));
    const key = (place) => data.groups[place][state.sort];
    const order = (a, b) => (state.sort === "text" ? key(a).localeCompare(key(b)) : (key(a) ?? -1) - (key(b) ?? -1));
    found.sort((a, b) => (state.up ? order(a, b) : -order(a, b)) || a - b);
    return found;
  };
  const drawGroups = () => {
    const found = orderedGroups();
    const current = data.passages[state.passage]?.group;
    const rows = found.map((place) => {
      const group = data.groups[place];
      const row = make("tr");
      const cell = make("td");
      const open = make("button", group.text.trim() || "(empty)");
      open.type = "button";
      open.title = group.text;
      open.addEventListener("click", () => openGroup(place));
      cell.append(open);
      const value = make("td", shown(group.value));
      const count = make("td", shown(group.count));
      value.className = count.className = "right";
      row.append(cell, value, count);
      if (place === current) row.setAttribute("aria-current", "true");
      return row;
    });
    at("groups").tBodies[0].replaceChildren(...rows);
    at("group-count").textContent = `${found.length} of ${data.groups.length} prompts`;
    for (const button of at("groups").querySelectorAll("th button")) {
      const sorted = button.dataset.sort === state.sort ? (state.up ? "ascending" : "descending") : "none";
      button.parentElement.setAttribute("aria-sort", sorted);
    }
  };
  const openGroup = (group) => {
    const own = members(group);
    if (own.length) return openPassage(own[0]);
    at("which").textContent = "no sequence of this prompt is on this page";
  };
  const openPassage = (place) => {
    state.passage = place;
    state.token = -1;
    const current = data.passages[place].group;
    orderedGroups().forEach((group, row) => {
      const drawn = at("groups").tBodies[0].rows[row];
      if (group === current) drawn.setAttribute("aria-current", "true");
      else drawn.removeAttribute("aria-current");
    });
    drawPassage();
  };

  /* White to blue, or orange through white to blue where 0 stands in the middle; the ink that is better read on it. */
  const light = (colour) => {
    const [r, g, b] = colour.map((part) => (part <= 10 ? part / 3295 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const shade = (value, largest, signed) => {
    if (value === null || value === undefined || !largest) return ["transparent", "#000000"];
    const share = Math.min(Math.abs(value) / largest, 1);
    const dark = signed && value < 0 ? [140, 56, 0] : [8, 48, 107];
    const colour = dark.map((part) => Math.round(255 + share * (part - 255)));
    return [`rgb(${colour})`, light(colour) < 0.179 ? "#ffffff" : "#000000"];
  };
  const largestOf = (channel) => {
    const all = data.passages.flatMap((one) => one.values[channel] ?? []).filter((value) => value !== null);
    const sizes = all.map(Math.abs).sort((a, b) => a - b);
    return sizes.length ? sizes[Math.floor(0.99 * (sizes.length - 1))] || sizes[sizes.length - 1] : 0;
  };
  const largest = new Map();
  const scaleOf = (channel) => {
    if (!largest.has(channel)) largest.set(channel, largestOf(channel));
    return largest.get(channel);
  };

  const drawPassage = () => {
    const one = data.passages[state.passage];
    if (!one) return;
    const channel = data.channels[state.channel];
    const top = scaleOf(state.channel);
    const values = one.values[state.channel];
    const spans = one.tokens.map((text, place) => {
      const span = make("span", data.texts[text]);
      const [back, ink] = shade(values?.[place], top, channel.signed);
      span.style.background = back;
      span.style.color = ink;
      span.dataset.place = place;
      return span;
    });
    at("tokens").replaceChildren(...spans);
    const own = members(one.group);
    const number = own.indexOf(state.passage) + 1;
    at("which").textContent = `${one.name}, ${number} of ${own.length} of this prompt`;
    at("previous").disabled = number <= 1;
    at("next").disabled = number >= own.length;
    at("group-text").textContent = data.groups[one.group].text;
    at("scale").textContent = values
      ? `${channel.name}: white is 0, the darkest ${Number(top.toPrecision(2))} ${channel.unit}${channel.signed ? "; orange is below 0" : ""}`
      : `${channel.name} is not known here`;
    at("channel").value = String(state.channel);
    drawToken();
    writeState();
  };
  const drawToken = () => {
    const one = data.passages[state.passage];
    for (const span of at("tokens").querySelectorAll(".here")) span.classList.remove("here");
    drawLikely();
    if (state.token < 0) return at("token").replaceChildren();
    const span = at("tokens").children[state.token];
    span.classList.add("here");
    const facts = [["token", `${state.token + 1}: ${JSON.stringify(data.texts[one.tokens[state.token]])}`]];
    data.channels.forEach((channel, i) => {
      facts.push([channel.name, `${shown(one.values[i]?.[state.token])} ${channel.unit}`]);
    });
    at("token").replaceChildren(...facts.flatMap(([name, text]) => [make("dt", name), make("dd", text)]));
  };
  /* What each model finds likeliest there: of every word its number in 3 bytes, then its log-prob in 2. */
  const likelyAt = (side, token) => {
    side.held ??= Uint8Array.from(atob(side.bytes), (one) => one.charCodeAt(0));
    const found = [];
    for (let at = 5 * side.count * token; found.length < side.count; at += 5) {
      const [a, b, c, low, high] = side.held.subarray(at, at + 5);
      const steps = low + 256 * high;
      found.push([a + 256 * b + 65536 * c, steps === 65535 ? 0 : Math.exp(-steps / data.fine)]);
    }
    return found;
  };
  const drawLikely = () => {
    const one = data.passages[state.passage];
    if (state.token < 0) return at("likely").replaceChildren();
    const drawn = one.tokens[state.token];
    const tables = (one.likely ?? []).map((side) => {
      const table = make("table");
      table.append(make("caption", `likeliest, ${side.who}`));
      for (const [word, chance] of likelyAt(side, state.token)) {
        const row = table.insertRow();
        const text = make("td", JSON.stringify(data.texts[word]) + (word === drawn ? " (drawn)" : ""));
        const number = make("td", Number(chance.toPrecision(3)).toString());
        const bar = make("td");
        const filled = make("span");
        filled.style.width = `${(100 * chance).toFixed(1)}%`;
        bar.append(filled);
        number.className = "right";
        bar.className = "share";
        row.append(text, number, bar);
      }
      return table;
    });
    at("likely").replaceChildren(...tables);
  };
  const goTo = (token) => {
    const count = data.passages[state.passage].tokens.length;
    state.token = Math.min(Math.max(token, 0), count - 1);
    drawToken();
    writeState();
  };
  const turn = (by) => {
    const own = members(data.passages[state.passage].group);
    const place = own.indexOf(state.passage) + by;
    if (place >= 0 && place < own.length) openPassage(own[place]);
  };

  at("tokens").addEventListener("pointerover", (event) => {
    if (event.target.dataset.place !== undefined) goTo(Number(event.target.dataset.place));
  });
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 };
  at("tokens").addEventListener("keydown", (event) => {
    if (event.key in steps) goTo(state.token + steps[event.key]);
    else if (event.key === "Home") goTo(0);
    else if (event.key === "End") goTo(Infinity);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") turn(1);
    if (event.key === "p") turn(-1);
  });
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  at("channel").addEventListener("change", (event) => {
    state.channel = Number(event.target.value);
    drawPassage();
  });
  at("group-search").addEventListener("input", (event) => {
    state.search = event.target.value;
    drawGroups();
    writeState();
  });
  for (const button of at("groups").querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      state.up = state.sort === button.dataset.sort ? !state.up : button.dataset.sort === "text";
      state.sort = button.dataset.sort;
      drawGroups();
      writeState();
    });
  }
  const begin = (fresh) => {
    if (fresh && !location.hash) state.passage = Math.max(members(orderedGroups()[0])[0] ?? 0, 0);
    readState();
    at("group-search").value = state.search;
    drawGroups();
    drawPassage();
  };
  window.addEventListener("hashchange", () => {
    if (!location.hash.startsWith("#passage=")) return;
    begin(false);
    at("tokens").focus();
    at("tokens").scrollIntoView({ block: "center" });
  });
  document.querySelector(".reader").hidden = false;
  begin(true);
})();

/* Every other table is sorted by a click on the head of a column; numbers as numbers. */
(() => {
  const number = (text) => {
    const found = text.replaceAll(",", "").match(/^[^\d-]*(-?\d+(\.\d+)?(e[+-]?\d+)?)/i);
    return found ? Number(found[1]) : Number.NEGATIVE_INFINITY;
  };
  for (const table of document.querySelectorAll("table:not(#groups)")) {
    const body = table.tBodies[0];
    const heads = [...(table.tHead?.rows[0].cells ?? [])];
    if (!body || body.rows.length < 3) continue;
    heads.forEach((head, column) => {
      if (!head.textContent) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending" || (head.getAttribute("aria-sort") === "none" && !head.classList.contains("right"));
        const text = (row) => row.cells[column].textContent;
        const order = head.classList.contains("right") ? (a, b) => number(text(a)) - number(text(b)) : (a, b) => text(a).localeCompare(text(b));
        const rows = [...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a)));
        body.append(...rows);
        heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
      });
    });
  }
})();
