"use strict";
// What the page computes: counts at a threshold, Wilson's intervals, and predictive values at a prevalence.
const statistics = (() => {
  const Z = 1.959963984540054; // the 97.5 % quantile of the normal distribution

  // Wilson's 95 % interval of k out of n (Wilson 1927); null where there is nothing to count.
  function wilson(k, n) {
    if (!(n > 0)) return null;
    const share = k / n, square = Z * Z;
    const centre = (share + square / (2 * n)) / (1 + square / n);
    const half = (Z / (1 + square / n)) * Math.sqrt((share * (1 - share)) / n + square / (4 * n * n));
    return [k === 0 ? 0 : Math.max(0, centre - half), k === n ? 1 : Math.min(1, centre + half)];
  }

  // The four shares at a threshold, with their counts: {name, k, n, value, interval}.
  function rates(tp, fp, positives, negatives) {
    const tn = negatives - fp, fn = positives - tp;
    const of = (name, k, n) => ({ name, k, n, value: n > 0 ? k / n : null, interval: wilson(k, n) });
    return [
      of("sensitivity", tp, positives), of("specificity", tn, negatives),
      of("PPV", tp, tp + fp), of("NPV", tn, tn + fn),
    ];
  }

  // Bayes' rule: which share of the positive answers is right at a prevalence; null where there is no positive answer.
  function ppv(sensitivity, specificity, prevalence) {
    const right = sensitivity * prevalence, wrong = (1 - specificity) * (1 - prevalence);
    return right + wrong > 0 ? right / (right + wrong) : null;
  }

  // The same of the negative answers.
  function npv(sensitivity, specificity, prevalence) {
    const right = specificity * (1 - prevalence), wrong = (1 - sensitivity) * prevalence;
    return right + wrong > 0 ? right / (right + wrong) : null;
  }

  // PPV and NPV at a prevalence with bounds from both bounds of sensitivity and specificity: {value, interval} each.
  function atPrevalence(found, prevalence) {
    const [sensitivity, specificity] = found;
    if (sensitivity.value === null || specificity.value === null) return [null, null];
    return [ppv, npv].map((rule) => {
      const value = rule(sensitivity.value, specificity.value, prevalence);
      const low = rule(sensitivity.interval[0], specificity.interval[0], prevalence);
      const high = rule(sensitivity.interval[1], specificity.interval[1], prevalence);
      return value === null ? null : { value, interval: [low ?? 0, high ?? 1] };
    });
  }

  // The place of the largest sensitivity + specificity - 1 (Youden 1950), of equals the most sensitive.
  function youden(tp, fp, positives, negatives) {
    let best = 0, most = -Infinity;
    for (let place = 0; place < tp.length; place++) {
      const index = tp[place] / positives - fp[place] / negatives;
      if (index >= most - 1e-12) { most = Math.max(most, index); best = place; }
    }
    return best;
  }

  // The last place whose threshold (from the highest down) is not below a value; -1 where all are.
  function placeOf(thresholds, value) {
    let low = 0, high = thresholds.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (thresholds[middle] >= value) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  // A threshold with six digits that is not above it, so that it answers the same images.
  function floored(threshold) {
    const shown = Number(threshold.toPrecision(6));
    if (shown <= threshold) return shown;
    return Number((shown - 10 ** (Math.floor(Math.log10(shown)) - 5)).toPrecision(6));
  }

  return { floored, wilson, rates, ppv, npv, atPrevalence, youden, placeOf };
})();
if (typeof module !== "undefined") module.exports = statistics;
