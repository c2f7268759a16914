// Elements of the page, made of text and never of HTML: what a pasted file says stays text.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "style") for (const [rule, is] of Object.entries(value)) made.style.setProperty(rule, is);
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

export function list(texts) {
  return element("ul", {}, texts.map((text) => element("li", {}, text)));
}

// What is not read at first sight; nothing where there is nothing to read.
export function fold(summary, texts) {
  return texts.length ? element("details", {}, element("summary", {}, summary), list(texts)) : null;
}
