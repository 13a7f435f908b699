"use strict";
// Reads the page again while somebody looks at it, and puts what is new in place: scroll and focus stay.
const seconds = Number(document.body.dataset.refresh);
const renew = async () => {
  const field = document.activeElement && document.activeElement.matches("input, select, textarea");
  if (!document.hidden && !field && !getSelection().toString()) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const focused = document.activeElement && document.activeElement.getAttribute("href");
        for (const name of ["header", "main", "footer"]) {
          const before = document.querySelector(`body > ${name}`), after = page.querySelector(`body > ${name}`);
          if (before && after && before.innerHTML !== after.innerHTML) before.replaceWith(after);
        }
        document.title = page.title;
        document.body.dataset.refresh = page.body.dataset.refresh;
        document.body.classList.remove("lost");
        if (focused) for (const link of document.links)
          if (link.getAttribute("href") === focused) { link.focus({ preventScroll: true }); break; }
      } else document.body.classList.add("lost");
    } catch { document.body.classList.add("lost"); }
  }
  setTimeout(renew, 1000 * Number(document.body.dataset.refresh));
};
if (seconds > 0) setTimeout(renew, 1000 * seconds);
