// What the pages do besides showing: the theme, local times, keys, and live records. Reading needs none of it.
"use strict";
(() => {
  const root = document.documentElement;
  const kept = {
    get(name) { try { return localStorage.getItem("audit-view." + name); } catch { return null; } },
    set(name, value) { try { localStorage.setItem("audit-view." + name, value); } catch { /* it lasts for this page */ } },
  };

  // Before the page is drawn, so that it does not flash.
  const themes = ["auto", "light", "dark"];
  let theme = themes.includes(kept.get("theme")) ? kept.get("theme") : "auto";
  const applyTheme = () => { if (theme === "auto") { delete root.dataset.theme; } else { root.dataset.theme = theme; } };
  applyTheme();

  let isLocal = kept.get("times") === "local";
  const pad = (number) => String(number).padStart(2, "0");
  const localText = (moment) =>
    `${moment.getFullYear()}-${pad(moment.getMonth() + 1)}-${pad(moment.getDate())} ` +
    `${pad(moment.getHours())}:${pad(moment.getMinutes())}:${pad(moment.getSeconds())}`;
  const showTimes = (within) => {
    for (const element of within.querySelectorAll("time[datetime]")) {
      element.dataset.utc ??= element.textContent;
      const moment = new Date(element.dateTime);
      if (Number.isNaN(moment.getTime())) { continue; }
      element.textContent = isLocal ? localText(moment) : element.dataset.utc;
      element.title = isLocal ? `${element.dateTime}` : `${element.dateTime}\nlocal: ${localText(moment)}`;
    }
    for (const element of within.querySelectorAll("[data-zone]")) { element.textContent = isLocal ? "local" : "UTC"; }
  };

  const editing = (target) => target instanceof Element && target.closest("input, select, textarea") !== null;
  const places = { r: "Records", l: "Live", o: "Logs", v: "Verification", h: "Holds" };
  let isGoing = false;

  const stepInList = (by) => {
    const rows = [...document.querySelectorAll(".records a.open, .timeline a.open")];
    if (rows.length === 0) { return false; }
    const at = rows.indexOf(document.activeElement);
    const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1);
    rows[next].focus();
    return true;
  };

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || editing(event.target)) {
      if (event.key === "Escape" && editing(event.target)) { event.target.blur(); }
      return;
    }
    const key = event.key;
    if (isGoing) {
      isGoing = false;
      for (const link of document.querySelectorAll("header nav a")) {
        if (link.textContent.trim() === places[key]) { link.click(); }
      }
      return;
    }
    if (key === "g") { isGoing = true; setTimeout(() => { isGoing = false; }, 1500); return; }
    if (key === "t") { document.querySelector("[data-times]").click(); return; }
    if (key === "?") { document.querySelector("header a[href*='/help']")?.click(); return; }
    if ((key === "j" || key === "k") && stepInList(key === "j" ? 1 : -1)) { event.preventDefault(); return; }
    const target = document.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (target === null || target.hidden) { return; }
    event.preventDefault();
    if (target instanceof HTMLInputElement) { target.focus(); target.select(); } else { target.click(); }
  };

  // Live records: rows that the server has made, put above the others.
  const follow = (state) => {
    const pause = document.querySelector("[data-pause]");
    const rows = document.getElementById("rows");
    const most = 500;
    let source = null;
    let count = 0;
    const show = (text, isOn) => { state.textContent = text; state.classList.toggle("on", isOn); };
    const start = () => {
      source = new EventSource(state.dataset.stream);
      source.addEventListener("open", () => show("Following. New records appear at the top.", true));
      source.addEventListener("record", (event) => {
        const made = document.createElement("template");
        made.innerHTML = event.data;
        showTimes(made.content);
        rows.prepend(made.content);
        count += 1;
        show(`Following: ${count} new.`, true);
        while (rows.rows.length > most) { rows.lastElementChild.remove(); }
      });
      source.addEventListener("failed", () => { stop(); show("The trail can't be read now.", false); });
      source.addEventListener("error", () => show("Not connected; trying again.", false));
      pause.textContent = "Pause";
    };
    const stop = () => { source.close(); source = null; pause.textContent = "Go on"; };
    pause.hidden = false;
    pause.addEventListener("click", () => {
      if (source === null) { start(); } else { stop(); show("Paused.", false); }
    });
    addEventListener("pagehide", () => source?.close());
    start();
  };

  document.addEventListener("DOMContentLoaded", () => {
    const themeButton = document.querySelector("[data-theme-switch]");
    const nameTheme = () => { themeButton.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme]; themeButton.setAttribute("aria-label", `Theme: ${theme}`); };
    nameTheme();
    themeButton.hidden = false;
    themeButton.addEventListener("click", () => {
      theme = themes[(themes.indexOf(theme) + 1) % themes.length];
      kept.set("theme", theme);
      applyTheme();
      nameTheme();
    });
    const timesButton = document.querySelector("[data-times]");
    const nameTimes = () => { timesButton.textContent = isLocal ? "Local" : "UTC"; timesButton.setAttribute("aria-label", isLocal ? "Times: Local" : "Times: UTC"); };
    nameTimes();
    timesButton.hidden = false;
    timesButton.addEventListener("click", () => {
      isLocal = !isLocal;
      kept.set("times", isLocal ? "local" : "utc");
      nameTimes();
      showTimes(document);
    });
    showTimes(document);
    document.addEventListener("htmx:afterSettle", () => showTimes(document));
    document.addEventListener("keydown", onKey);
    const state = document.querySelector("[data-stream]");
    if (state !== null) { follow(state); }
  });
})();
