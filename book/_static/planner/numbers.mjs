// Numbers as people read them: three digits at most, and a unit that fits.

const PREFIXES = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const SPANS = [[31557600, "years"], [86400, "days"], [3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"]];

export function digits(value) {
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(2)));
}

export function bytes(value) {
  const [size, prefix] = PREFIXES.find(([size]) => value >= size) ?? [1, ""];
  return `${Number((value / size).toPrecision(3))} ${prefix}B`;
}

export function count(value) {
  const [size, name] = [[1e12, " trillion"], [1e9, " billion"], [1e6, " million"]].find(([size]) => value >= size) ?? [1, ""];
  return `${digits(value / size)}${name}`;
}

// "11 to 20 tokens/s", or one number where both ends read the same.
export function range([low, high], unit = "", show = digits) {
  const [from, to] = [show(low), show(high)];
  return `${from === to ? from : `${from} to ${to}`} ${unit}`.trim();
}

export function seconds([low, high]) {
  const [size, name] = SPANS.find(([size]) => high >= size) ?? SPANS.at(-1);
  return range([low / size, high / size], name);
}

export function energy([low, high]) {
  const [size, prefix] = PREFIXES.find(([size]) => high / 3600 >= size) ?? [1, ""];
  return range([low / 3600 / size, high / 3600 / size], `${prefix}Wh`);
}
