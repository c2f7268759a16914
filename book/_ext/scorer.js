// The search's order: what the course says stands before the pages of its package.
const PACKAGE = "book/api";

var Scorer = {
  score: ([page, , , , score]) => (page.startsWith(PACKAGE) ? score - 1000 : score),
  // as Sphinx has them
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
