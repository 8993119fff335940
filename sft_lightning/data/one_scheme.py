"""Writes the tags of old and new data in one scheme for entities, that of the network's tags."""

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace

from sft_lightning.core.wording import plural
from sft_lightning.data.datamodule import SFTDataModule
from sft_lightning.data.split import Split
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.tasks.schemes import OUTSIDE, PREFIXES, in_scheme, recognise, scheme_of, type_of

ALIKE = ("IOB1", "IOB2")
"""Schemes whose tags have the same names"""


def in_one_scheme(parts: Mapping[str, SFTDataModule], known: Sequence[str] | None) -> list[str]:
    """Writes tags anew where the data sets' schemes differ, and returns a line for each data set that this changes.

    The scheme is that of the network's tags. Where these may be IOB1 or IOB2, the sentences of the old data decide. Entities
    are read as seqeval does by default, and stay as they are. Data sets without tags in a scheme are left to `check_tags`.

    Args:
        parts: The data sets 'new' and, if there is one, 'old', set up, before texts become tokens.
        known: The network's tags; None for those of the old data.
    """
    schemes = {name: scheme_in(part) for name, part in parts.items()}
    wanted = scheme_of(known) if known is not None else schemes.get("old", "")
    if wanted in ALIKE:
        if schemes.get("old") in ALIKE:
            wanted = schemes["old"]
        elif "old" not in parts and schemes["new"] in ALIKE:  # nothing tells which of the two the network knows
            wanted = schemes["new"]
    if not wanted or not all(schemes.values()):
        return []
    of_network = known if known is not None or "old" not in parts else labels_of(parts["old"])
    types = {type_of(tag) for tag in of_network or () if tag != OUTSIDE}
    return [
        rewrite(part, name, schemes[name], wanted, types) for name, part in parts.items() if schemes[name] != wanted
    ]


def labels_of(part: SFTDataModule) -> list[str]:
    """A data set's labels."""
    assert part.task_info is not None
    return part.task_info.labels


def scheme_in(part: SFTDataModule) -> str:
    """The scheme of a data set's sentences, by the tags that occur; '' for none."""
    samples = part.splits["train"].samples if "train" in part.splits else None
    if not isinstance(samples, TaggedRows) or not samples.scheme:
        return ""
    if samples.scheme in ALIKE:  # recognised, or said by the user
        return samples.scheme
    used = [samples.sentences.tags[row] for row in samples.sentences.good()]
    return recognise(sorted({tag for tags in used for tag in tags}), used)


def rewrite(part: SFTDataModule, name: str, scheme: str, wanted: str, known: Collection[str]) -> str:
    """Writes a data set's tags in another scheme, and returns what was done.

    Its labels become the tags that occur in its sentences, and all tags of the scheme for types that the network does not know.

    Args:
        part: The data set.
        name: 'new' or 'old', for what is said.
        scheme: The scheme of its tags.
        wanted: The scheme to write.
        known: Types that the network knows.
    """
    assert part.task_info is not None
    written: dict[int, Sentences] = {}
    used, changed, words = set[str](), 0, 0
    for split in part.splits.values():
        samples = split.samples
        assert isinstance(samples, TaggedRows)
        if id(samples) in written:
            continue
        of = written[id(samples)] = copy(samples.sentences)
        of.tags = list(of.tags)
        for row in of.good():
            tags = in_scheme(of.tags[row], wanted)
            changed += sum(a != b for a, b in zip(tags, of.tags[row], strict=True))
            words += len(tags)
            used |= set(tags)
            of.tags[row] = tags
    types = dict.fromkeys(type_of(tag) for tag in part.task_info.labels if tag != OUTSIDE)
    every = [f"{prefix}-{kind}" for kind in types for prefix in PREFIXES[wanted]]
    labels = [OUTSIDE, *(tag for tag in every if tag in used or type_of(tag) not in known)]
    made = {at: TaggedRows(of, labels, wanted) for at, of in written.items()}
    part.splits = {at: Split(made[id(s.samples)], s.rows, s.targets, s.train, s.name) for at, s in part.splits.items()}
    of_one = "IOB1" if wanted == "IOB1" else ""  # labels tell every other scheme
    part.task_info = replace(part.task_info, labels=labels, num_outputs=len(labels), scheme=of_one)
    return (
        f"the {name} data's tags are in {scheme}, and are written in {wanted}, as the network's are: {changed:,} of "
        f"{plural(words, 'tag')} {'changes' if changed == 1 else 'change'}, and no entity does"
    )
