"""Decides which values of a data set's masks are classes, over the masks of all splits at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...arguments.values import color_of, listed
from ..columns import DataError
from .reading import MOST_CLASSES, MaskReading
from .survey import MaskValues

WHITE = 255  # of a binary mask, or the value of pixels without label in an index mask
IGNORE = "ignore"  # nnU-Net's name for pixels without label
MOST_UNNAMED = 40
HIGHEST_INDEX = 63  # above it, grey values with gaps and 255 are taken for levels of grey


@dataclass(frozen=True)
class MaskClasses:
    """What the masks of a data set mean.

    :param reading: the class of each value.
    :param names: of the classes, in the order of their indices.
    :param notes: sentences for the log.
    """

    reading: MaskReading
    names: list[str]
    notes: tuple[str, ...] = ()


def find_classes(
    masks: Sequence[MaskValues], names: Mapping[int, str] | None = None, colors: Mapping[str, str] | None = None
) -> MaskClasses:
    """Decide which values are classes.

    :param masks: what each mask holds; their colours if `colors` is given.
    :param names: the class of each value, where the data or the user names them.
    :param colors: the class of each colour, likewise; black is the background where it is not named.
    :raises DataError: if a value has no class, or if masks have colours and `colors` is None.
    """
    if colors is not None:
        found = _of_colors(masks, colors)
    else:
        _check_no_colors(masks)
        found = _of_values(masks) if names is None else _of_names(masks, names)
    check_known(masks, found)
    return found


def check_learnable(masks: Sequence[MaskValues], found: MaskClasses) -> None:
    """:raises DataError: where all masks hold the first class alone."""
    values = _values(masks)
    if {found.reading.classes[value] for value in values if value in found.reading.classes} == {0}:
        raise DataError(
            f"the masks hold nothing but {found.names[0]!r} (value {found.reading.listed(values)}), so there is "
            f"nothing to learn; are these the right masks? The first is {masks[0].name}"
        )


def match_classes(
    masks: Sequence[MaskValues],
    own: MaskClasses | None,
    recorded: MaskReading,
    model_names: Sequence[str],
) -> MaskClasses:
    """Number classes as a trained model does.

    :param masks: what each mask holds.
    :param own: what the masks mean, where the data names its classes; they are matched by name.
    :param recorded: how the masks of training were read; otherwise a value means what it meant there.
    :param model_names: the model's class names, in its order.
    :raises DataError: naming the values or classes that the model does not know.
    """
    if own is None:
        if not recorded.are_colors:
            _check_no_colors(masks)
        found = _widened(masks, recorded, model_names)
        check_known(masks, found)
        return _noting_nothing(masks, found)
    number = {name: index for index, name in enumerate(model_names)}
    occurring = _values(masks)
    unknown = [
        own.names[index]
        for value, index in own.reading.classes.items()
        if value in occurring and own.names[index] not in number
    ]
    if unknown and list(model_names) == _default_names(len(model_names)) and len(own.names) <= len(model_names):
        note = f"The model's classes have no names, so {listed(own.names)} are matched with them by number."
        return MaskClasses(own.reading, list(model_names), (*own.notes, note))
    if unknown:
        raise DataError(
            f"the masks have classes that the model does not know: {', '.join(dict.fromkeys(unknown))}; the model's "
            f"classes are {listed(model_names)}. Rename these classes where the data names them"
        )
    classes = {
        value: number[own.names[index]] for value, index in own.reading.classes.items() if own.names[index] in number
    }
    reading = MaskReading(classes, own.reading.ignored, own.reading.are_colors)
    notes, lacking = list(own.notes), [name for name in model_names if name not in own.names]
    if lacking:
        notes.append(f"The data has no class named {listed(lacking)}: it is scored as if no mask showed it.")
    return _noting_nothing(masks, MaskClasses(reading, list(model_names), tuple(notes)))


def _noting_nothing(masks: Sequence[MaskValues], found: MaskClasses) -> MaskClasses:
    """With a sentence where no mask shows any class but the first, as if 255 were the object."""
    reading, occurring = found.reading, _values(masks)
    ignored = [value for value in occurring if value in reading.ignored]
    if not ignored or any(reading.classes.get(value) for value in occurring):
        return found
    note = (
        f"No mask shows more than {found.names[0]!r}, and {reading.listed(ignored)} is read as pixels without label. "
        "If it is a class, name the classes of the data in a classes.txt."
    )
    return replace(found, notes=(*found.notes, note))


def check_known(masks: Sequence[MaskValues], found: MaskClasses) -> None:
    """:raises DataError: for the first mask with a value that is no class; names file, values and classes."""
    reading = found.reading
    for mask in masks:
        unknown = [value for value in mask.counts if value not in reading.classes and value not in reading.ignored]
        if unknown:
            classes = ", ".join(
                f"{reading.shown(value)} ({found.names[index]})" for value, index in [*reading.classes.items()][:20]
            )
            raise DataError(
                f"{mask.name} holds {reading.listed(unknown)}, which is no class. {_way_out(unknown, found)}"
                f"The classes are {classes}"
            )


def _way_out(unknown: Sequence[int], found: MaskClasses) -> str:
    values = [*found.reading.classes]
    if found.reading.are_colors:
        return "Name its class with `mask_colors`, or correct the mask. "
    if values == list(range(len(values))) and (unknown == [len(values)] or len(values) == 1):
        return f"A list of names begins with the class of value 0, here {found.names[0]!r}. "
    return "Correct the mask, or train with `label_names`, which names the class. "


def _check_no_colors(masks: Sequence[MaskValues]) -> None:
    colored = [mask for mask in masks if mask.kind == "color"]
    if not colored:
        return
    counts = Counter()
    for mask in colored:
        counts.update(mask.counts)
    listed = MaskReading({}, are_colors=True).listed(sorted(counts, key=lambda color: (-counts[color], color)))
    also = f", as the first of {len(colored)} masks" if len(colored) > 1 else ""
    raise DataError(
        f"{colored[0].name} has colours{also}. The colours found are {listed}. Name the class of each with "
        "`mask_colors` '{\"#ff0000\": tumour}', or save grey masks of class numbers"
    )


def _values(masks: Sequence[MaskValues]) -> list[int]:
    return sorted({value for mask in masks for value in mask.counts})


def _of_colors(masks: Sequence[MaskValues], colors: Mapping[str, str]) -> MaskClasses:
    by_color = {color_of(text): name for text, name in colors.items()}
    if 0 not in by_color and "background" not in by_color.values():
        by_color = {0: "background"} | by_color
    classes = [name for name in dict.fromkeys(by_color.values()) if name.lower() != IGNORE]
    classes.sort(key=lambda name: name != "background")  # which is the first where it is named so
    _check_number(classes)
    reading = MaskReading(
        {color: classes.index(name) for color, name in by_color.items() if name.lower() != IGNORE},
        tuple(color for color, name in by_color.items() if name.lower() == IGNORE),
        are_colors=True,
    )
    return MaskClasses(reading, classes, (_mapping_in_words("colours", reading, classes),))


def _of_names(masks: Sequence[MaskValues], names: Mapping[int, str]) -> MaskClasses:
    by_value = {value: name for value, name in sorted(names.items()) if name.lower() != IGNORE}
    ignored = tuple(value for value, name in names.items() if name.lower() == IGNORE)
    classes = [*dict.fromkeys(by_value.values())]
    _check_number(classes)
    reading = MaskReading({value: classes.index(name) for value, name in by_value.items()}, ignored)
    return _widened(masks, reading, classes)


def _widened(masks: Sequence[MaskValues], reading: MaskReading, names: Sequence[str]) -> MaskClasses:
    """Give 255 its usual meaning where a reading says nothing of it: the one foreground, or pixels without label."""
    known, names = {*reading.classes, *reading.ignored}, list(names)
    unknown = [value for value in _values(masks) if value not in known]
    foreground = [value for value, index in reading.classes.items() if index == 1]
    is_binary = len(names) == 2 and set(reading.classes) <= {0, 1, WHITE} and not reading.are_colors
    if is_binary and unknown and {*unknown, *foreground} == {1, WHITE} and not _in_one_mask(masks):
        note = f"Masks of 0 and {unknown[0]} are read as {names[0]!r} and {names[1]!r}."
        classes = {**reading.classes, unknown[0]: 1}
        return MaskClasses(MaskReading(classes, reading.ignored), names, (note,))
    if unknown == [WHITE] and len(_values(masks)) > 2 and not reading.are_colors:
        return MaskClasses(MaskReading(reading.classes, (*reading.ignored, WHITE)), names, (_note_on_white(masks),))
    return MaskClasses(reading, names)


def _of_values(masks: Sequence[MaskValues]) -> MaskClasses:
    """Decide without names: see docs/how-to/masks.md for the rules."""
    values = _values(masks)
    if values[0] < 0:
        name = next(mask.name for mask in masks if values[0] in mask.counts)
        raise DataError(
            f"{name} holds {values[0]}, and class numbers are not negative; save pixels without label as {WHITE}"
        )
    if len(values) > MOST_UNNAMED:
        raise DataError(
            f"the masks have {len(values)} different values ({MaskReading({}).listed(values)}), as after resizing with "
            f"interpolation or after JPEG; {max(masks, key=lambda mask: len(mask.counts)).name} has most of them. If "
            "they are classes, name them with `label_names`"
        )
    if set(values) <= {0, 1, WHITE} and values != [0] and not (WHITE in values and _in_one_mask(masks)):
        return _binary(masks, values)
    ignored = (WHITE,) if WHITE in values and _is_index(masks, [value for value in values if value != WHITE]) else ()
    kept = [value for value in values if value not in ignored]
    names = _default_names(len(kept))
    reading = MaskReading({value: index for index, value in enumerate(kept)}, ignored)
    notes = [_note_on_white(masks)] if ignored else []
    if kept != list(range(len(kept))):
        notes.append(
            f"{_mapping_in_words('values', reading, names)} They have gaps, so they are numbered in ascending order; "
            "`label_names` gives them names."
        )
    return MaskClasses(reading, names, tuple(notes))


def _binary(masks: Sequence[MaskValues], values: Sequence[int]) -> MaskClasses:
    classes = {0: 0} | {value: 1 for value in values if value}
    bits = all(mask.kind == "bit" for mask in masks)
    note = "" if values == [0, 1] and not bits else f"The masks hold {' and '.join(map(str, values))}"
    if bits:
        note = "The masks have one bit, black and white"
    notes = (f"{note}: read as background (0) and foreground (1).",) if note else ()
    return MaskClasses(MaskReading(classes), _default_names(2), notes)


def _default_names(count: int) -> list[str]:
    if count == 2:
        return ["background", "foreground"]
    return ["background", *(f"class {index}" for index in range(1, count))]


def _in_one_mask(masks: Sequence[MaskValues]) -> bool:
    """Whether one mask has both 1 and 255, which then are two things."""
    return any(1 in mask.counts and WHITE in mask.counts for mask in masks)


def _is_index(masks: Sequence[MaskValues], others: Sequence[int]) -> bool:
    """Whether values besides 0 and 255 are class numbers, as in VOC and Cityscapes, and not levels of grey."""
    if not any(others):
        return False
    is_palette = all(mask.kind == "palette" for mask in masks)
    return is_palette or others[-1] <= HIGHEST_INDEX or list(others) == list(range(len(others)))


def _note_on_white(masks: Sequence[MaskValues]) -> str:
    count = sum(WHITE in mask.counts for mask in masks)
    return f"Value {WHITE} is read as pixels without label; {count} of {len(masks)} masks have it."


def _mapping_in_words(what: str, reading: MaskReading, names: Sequence[str]) -> str:
    pairs = [f"{reading.shown(value)} is {names[index]!r}" for value, index in [*reading.classes.items()][:20]]
    return f"The {what} of the masks are classes: {', '.join(pairs)}."


def _check_number(names: Sequence[str]) -> None:
    if len(names) > MOST_CLASSES:
        raise DataError(f"the masks have {len(names)} classes; at most {MOST_CLASSES} are possible")
