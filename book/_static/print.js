// On paper, what is folded, solutions among it, is open, and a dark page is light; afterwards all is as it was.
let folded = [];
let theme;
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const fold of folded) fold.open = true;
  theme = document.documentElement.dataset.theme;
  if (theme) document.documentElement.dataset.theme = "light";
});
addEventListener("afterprint", () => {
  for (const fold of folded) fold.open = false;
  if (theme) document.documentElement.dataset.theme = theme;
});
