// A slider moves the number beside it: evenly, or by the same factor a step, to two digits.

const STEPS = 200;

export function joinSliders(form) {
  const pairs = [...form.querySelectorAll("[data-of]")].map((slider) => [slider, form.elements[slider.dataset.of]]);
  for (const [slider, number] of pairs) {
    slider.max = STEPS;
    slider.addEventListener("input", () => {
      number.value = valueAt(slider);
    });
  }
  return () => pairs.forEach(([slider, number]) => place(slider, number.value || number.placeholder));
}

function ends(slider) {
  return [Number(slider.dataset.from), Number(slider.dataset.to), "even" in slider.dataset];
}

function valueAt(slider) {
  const [from, to, even] = ends(slider);
  const share = slider.value / STEPS;
  return Number((even ? from + share * (to - from) : from * (to / from) ** share).toPrecision(2));
}

// Beside an empty field the slider stands where its usual value is, or in the middle.
function place(slider, text) {
  const [from, to, even] = ends(slider);
  const value = Math.min(to, Math.max(from, Number(text)));
  const share = even ? (value - from) / (to - from) : Math.log(value / from) / Math.log(to / from);
  slider.value = Number.isNaN(share) ? STEPS / 2 : Math.round(share * STEPS);
  slider.setAttribute("aria-valuetext", text);
}
