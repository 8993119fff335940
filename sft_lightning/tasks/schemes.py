"""Schemes of tags for entities: recognises a scheme, and reads the entities of a sentence as seqeval does.

IOB1: I-type in an entity; B-type only begins an entity that follows another of its type.
IOB2 (BIO): B-type begins every entity, I-type continues it.
IOBES (BIOES): besides, E-type ends an entity, and S-type is an entity of one word. BILOU calls these L- and U-.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

OUTSIDE = "O"
PREFIXES = {"IOB1": "BI", "IOB2": "BI", "IOBES": "BIES", "BILOU": "BILU"}
"""Schemes, with the prefixes of their tags"""
ALONE = {"IOBES": "BS", "BILOU": "BU"}
"""Prefixes of which a scheme with marked ends has at least one; I- and E- alone are another scheme (IOE)"""
AS_IOBES = str.maketrans("LU", "ES")
CACHED = 1 << 16  # sentences; the true tags are read again in every validation
Entity = tuple[int, int, str]
"""(first word, word after the last, type)"""


def scheme_of(tags: Sequence[str]) -> str:
    """The scheme that has all these class names; '' for none. IOB1 and IOB2 have the same names: 'IOB2' stands for both."""
    named = [tag for tag in tags if tag != OUTSIDE]
    if not named or any(tag[1:2] != "-" for tag in named):
        return ""
    prefixes = {tag[0] for tag in named}
    fits = (
        s for s in ("IOB2", "IOBES", "BILOU") if prefixes <= set(PREFIXES[s]) and prefixes & set(ALONE.get(s, "BI"))
    )
    return next(fits, "")


def is_prefixed(tag: str) -> bool:
    """Whether a tag looks like one of a scheme for entities."""
    return tag[1:2] == "-" and tag[0] in "BIESLU"


def recognise(tags: Sequence[str], sentences: Iterable[Sequence[str]]) -> str:
    """The scheme of tagged sentences whose class names are `tags`: as `scheme_of`, but 'IOB1' if more entities begin with
    I- than with a B- that IOB1 does not have.
    """
    scheme = scheme_of(tags)
    if scheme != "IOB2":
        return scheme
    inside = begun = 0
    for sentence in sentences:
        for before, tag in pairwise((OUTSIDE, *sentence)):
            if tag != OUTSIDE and not continues(before, tag):
                inside, begun = inside + (tag[0] == "I"), begun + (tag[0] == "B")
    return "IOB1" if inside > begun else "IOB2"


def continues(before: str, tag: str) -> bool:
    """Whether two neighbouring tags have the same type."""
    return before != OUTSIDE and before[2:] == tag[2:]


def irregular(tags: Sequence[str], scheme: str) -> Iterator[str]:
    """What a sentence has that its scheme does not allow, and how it is read, in words."""
    for before, tag in pairwise((OUTSIDE, *tags, OUTSIDE)):
        open_before = continues(before, tag) and (scheme in ("IOB1", "IOB2") or before[0] in "BI")
        if scheme == "IOB1" and tag[:2] == "B-" and not continues(before, tag):
            yield f"the tag {tag} follows no entity of its type, where IOB1 has I-{tag[2:]}; it begins an entity"
        elif scheme != "IOB1" and tag != OUTSIDE and tag[0] in "IEL" and not open_before:
            yield f"the tag {tag} has no tag of its type before it, so it begins an entity"
        if scheme in ALONE and before != OUTSIDE and before[0] in "BI" and (not open_before or tag[0] not in "IEL"):
            yield f"the tag {before} is followed by no tag that continues its entity, so it ends there"


def type_of(tag: str) -> str:
    """The type of an entity's tag: `PER` of `B-PER`; '_' if it has none."""
    return tag[2:] or "_"


def types_of(tags: Sequence[str]) -> list[str]:
    """The types of entities among class names, sorted."""
    return sorted({type_of(tag) for tag in tags if tag != OUTSIDE})


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one sentence in any of the schemes, in order, as seqeval's default and conlleval read them.

    An entity ends before O, B-, S- and another type, and after E- and S-. An I- or E- that continues no entity begins one.
    """
    return list(_lenient(tuple(tags)))


def in_scheme(tags: Sequence[str], scheme: str) -> list[str]:
    """The tags of one sentence in another scheme, with the same `entities`."""
    made, end, kind_before = [OUTSIDE] * len(tags), 0, ""
    for start, stop, kind in entities(tags):
        follows = start == end and kind == kind_before
        made[start:stop] = [f"{prefix}-{kind}" for prefix in prefixes_of(stop - start, scheme, follows)]
        end, kind_before = stop, kind
    return made


def prefixes_of(length: int, scheme: str, follows: bool) -> str:
    """The prefixes of the tags of an entity of some words; `follows` says that it follows another of its type at once."""
    if scheme in ALONE:
        inside, last, alone = "IES" if scheme == "IOBES" else "ILU"
        return alone if length == 1 else "B" + inside * (length - 2) + last
    return ("B" if scheme == "IOB2" or follows else "I") + "I" * (length - 1)


@lru_cache(CACHED)
def _lenient(tags: tuple[str, ...]) -> tuple[Entity, ...]:
    from seqeval.metrics.sequence_labeling import get_entities

    if all(tag == OUTSIDE for tag in tags):
        return ()
    found = get_entities([tag[0].translate(AS_IOBES) + tag[1:] for tag in tags])
    return tuple((start, last + 1, kind) for kind, start, last in found)


@lru_cache(CACHED)
def strict_entities(tags: tuple[str, ...], scheme: str) -> tuple[Entity, ...]:
    """The entities of one sentence that are written as the scheme demands: seqeval's strict mode."""
    from seqeval import scheme as schemes

    if all(tag == OUTSIDE for tag in tags):
        return ()
    found = schemes.Tokens(list(tags), getattr(schemes, scheme)).entities
    return tuple((entity.start, entity.end, entity.tag) for entity in found)
