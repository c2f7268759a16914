"""Sphinx extension: the search finds *colour* as well as *color*: both are put down, and asked for, in one spelling.

The patterns are written in what Python and JavaScript share, since the browser has to change a question in the same way
as the index was made. What they make of a word need not be a word (*noise* becomes *noize*): it is the same for all.
"""

import json
import re

from sphinx import search
from sphinx.search.en import SearchEnglish

AMERICAN = [
    (r"is(e|es|ed|ing|er|ers|ation|ations)$", "iz$1"),  # quantise, normalisation
    (r"ys(e|es|ed|ing|er|ers)$", "yz$1"),  # analyse
    (r"^(...+)our(s|ed|ing|less|able|hood|hoods|ite|ites)?$", "$1or$2"),  # colour, neighbour, behaviour
    (r"(cent|met|lit|fib)re(s|d)?$", "$1er$2"),  # centre, kilometre
    (r"(model|label|cancel|level|signal|channel|travel)l(ed|ing|ings|er|ers|ation)$", "$1$2"),  # modelling
    (r"(def|off|lic)ence(s|d)?$", "$1ense$2"),  # licence
    (r"(catal|dial|anal)ogue(s)?$", "$1og$2"),
    (r"^programme(s)?$", "program$1"),
    (r"^grey(s|ed)?$", "gray$1"),
    (r"^artefact(s)?$", "artifact$1"),
]
SCRIPT = """
const StemmerOfOneSpelling = Stemmer;
Stemmer = function() {
  const stemmer = new StemmerOfOneSpelling();
  const spellings = %s;
  this.stemWord = word =>
    stemmer.stemWord(spellings.reduce((w, [from, to]) => w.replace(new RegExp(from), to), word));
};
"""


def one_spelling(word: str) -> str:
    """The word, in lower case, in the one spelling that the index has.

    >>> [one_spelling(word) for word in ("colours", "Quantisation", "modelling", "hour")]
    ['colors', 'quantization', 'modeling', 'hour']
    """
    word = word.lower()
    for pattern, spelling in AMERICAN:
        word = re.sub(pattern, re.sub(r"\$(\d)", r"\\g<\1>", spelling), word)
    return word


class EitherSpelling(SearchEnglish):
    """Sphinx's English, in one spelling; in the page as in the index."""

    js_stemmer_code = SearchEnglish.js_stemmer_code + SCRIPT % json.dumps(AMERICAN)

    def stem(self, word: str) -> str:
        """The stem of the word's one spelling."""
        return super().stem(one_spelling(word))


def setup(app) -> dict:
    """Called by Sphinx."""
    search.languages["en"] = EitherSpelling
    return {"parallel_read_safe": True}
