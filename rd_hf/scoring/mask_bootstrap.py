"""95 % percentile bootstrap intervals of the scores of masks, over images or over groups of images.

A resample is a row of weights, how often each image was drawn, so all scores of a block of resamples are a few matrix
products. Images of one group, such as a patient, are drawn together, because they resemble each other. A resample in
which a value is undefined is left out of that value's interval.
"""

from __future__ import annotations

import numpy as np

from .bootstrap import interval, most_have, units_with
from .segmentation import CLASS_MEANS, MaskRows, class_values, false_positive_images, mean_over_classes
from .units import resamples


def intervals(rows: MaskRows, whole: dict[str, np.ndarray], samples: int, seed: int, unit_of: np.ndarray) -> dict:
    """Intervals of every score.

    :param whole: values of each class of the sample as it is, under each of CLASS_MEANS.
    :param samples: number of resamples.
    :param seed: of the resampling; the same seed gives the same intervals, to the bit.
    :param unit_of: what `units` gives.
    :return: [low, high] under each of CLASS_MEANS and `false_positive_images`, and {class: [low, high]} under
        "dice_per_class" and so on; None where the value itself, or more than half of its resamples, is undefined, and
        for a value of fewer than FEWEST_FOR_INTERVAL images or groups, of a mean over classes where half or more are.
    """
    draws: dict[str, list[np.ndarray]] = {name: [] for name in (*CLASS_MEANS, "false_positive_images")}
    draws |= {f"{name}_per_class": [] for name in CLASS_MEANS}
    for weights in resamples(unit_of, samples, seed):
        for name, values in class_values(weights, rows).items():
            draws[name].append(mean_over_classes(values, whole[name], rows))
            draws[f"{name}_per_class"].append(values)
        draws["false_positive_images"].append(false_positive_images(weights, rows))
    joined = {name: np.concatenate(blocks) for name, blocks in draws.items()}
    scored = {name: units_with(~np.isnan(own), unit_of) for name, own in rows.per_image.items()}
    scored["pooled_dice"] = scored["dice"]
    empty = int(units_with(rows.is_empty[:, None], unit_of)[0])
    found: dict = {"false_positive_images": interval(joined["false_positive_images"], empty)}
    for name in CLASS_MEANS:
        defined = ~np.isnan(whole[name]) & rows.in_truth
        found[name] = interval(joined[name], most_have(scored[name][defined]))
        of_classes = joined[f"{name}_per_class"]
        found[f"{name}_per_class"] = {
            label: interval(of_classes[:, k], scored[name][k]) for k, label in enumerate(rows.names[1:])
        }
    return found
