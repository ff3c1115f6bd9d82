"""How a fact is stated and how it is asked for: fixed wordings, relations in prose, and wordings made at random.

A wording is a string with `{K}` (the field name) and `{V}` (the value). The held-out lists share no entry with the
training lists, nor a connective. Random wordings (filler words around a connective) keep a reader from leaning on a
small set of phrases.
"""

from __future__ import annotations

from jrtcli.train.values import Draw

# On a line of its own, or between other facts of a line.
LINES = (
    "{K}: {V}", "{K}: {V}", "{K}: {V}", "{K}: {V}", "{K} - {V}", "{K} = {V}", "{K} : {V}", "{K} – {V}", "{K}  {V}",
    "{K}\t{V}", "{K}......{V}", "{K} | {V}", "[{K}] {V}", "{K} ({V})", "**{K}**: {V}", "{K}={V}", "{K}, {V}",
    "{K} is {V}", "{K}; {V}", "{K} _{V}_", "<{K}> {V}", "{K}:: {V}", "{K}? {V}", "({K}) {V}", "{K} -- {V}",
)  # fmt: skip
HELD_LINES = (
    "{K} >> {V}",
    "{K} -> {V}",
    "{K} / {V}",
    "{K} ~ {V}",
    "{K} * {V}",
    "{K} := {V}",
    "#{K} {V}",
    "{K} [{V}]",
)

SENTENCES = (
    "The {K} is {V}.", "The {K} was {V}.", "Its {K} is {V}.", "{V} is the {K}.", "The {K} of the record is {V}.",
    "We recorded {V} as the {K}.", "The form gives {V} as {K}.", "For {K}, the file says {V}.", "As {K}: {V}.",
    "The {K} has been set to {V}.", "The {K} remains {V}.", "{V} was entered as the {K}.", "The {K} given is {V}.",
    "Note that the {K} is {V}.", "According to the file, the {K} is {V}.", "The {K} (see above) is {V}.",
    "{V} serves as {K}.", "They chose {V} for the {K}.", "The {K} shall be {V}.", "With {V} as {K}, work began.",
    "The {K} listed here is {V}.", "Our {K} is currently {V}.", "The {K} turned out to be {V}.", "{K} is {V}.",
    "The {K} reads {V}.", "The {K} was changed to {V}.", "The {K} stands at {V}.", "There is a {K}, namely {V}.",
    "The {K}, {V}, was noted.", "The {K} which applies is {V}.", "It has {V} as its {K}.", "On file as {K} is {V}.",
    "The {K} equals {V}.", "{V} (the {K}) was checked.", "The {K} came to {V}.", "Under {K} we find {V}.",
    "He stated that the {K} was {V}.", "She confirmed {V} as the {K}.", "The {K} indicated was {V}.", "{K} was {V}.",
    "Regarding the {K}, the answer is {V}.", "The {K} must be {V}.", "The {K} will be {V}.", "Please use {V} as {K}.",
)  # fmt: skip
HELD_SENTENCES = (
    "Staff know the {K} to be {V}.", "When asked about the {K}, they replied {V}.", "The {K} appears here: {V}.",
    "Everyone agreed upon {V} where the {K} is concerned.", "The {K} got fixed at {V}.", "{V} describes the {K}.",
    "No {K} other than {V} exists.", "{V} counts among us for {K}.", "We take the {K} to mean {V}.",
    "Let the {K} stay {V}.", "Someone wrote {V} under the heading {K}.", "The {K} became {V}.",
)  # fmt: skip

QUESTIONS = (
    "What is the {K}?", "What is the {K}?", "What was the {K}?", "Which {K} is given?", "{K}?", "Give the {K}.",
    "State the {K}.", "What {K} is listed?", "What does the document say about the {K}?", "Tell me the {K}.",
    "What is its {K}?", "Find the {K}.", "Please give the {K}", "which {K}", "What is recorded as the {K}?",
    "Can you find the {K}?", "What is the value of {K}?", "Name the {K}.", "The {K} is what?", "Look up {K}.",
    "What are the {K}?", "Who or what is the {K}?", "What is mentioned as {K}?", "How is the {K} stated?",
)  # fmt: skip
HELD_QUESTIONS = (
    "I need to know the {K}.", "Do you have the {K}?", "Could the {K} be told from this text?", "Say the {K}, please.",
    "From the text, extract the {K}.", "What should I write down for {K}?", "Which entry belongs to {K}?",
    "Read out the {K}.",
)  # fmt: skip

# (statement, question, kind of value): S is a person, a company or a thing that the document speaks of.
RELATIONS = (
    ("{S} was born in {V}.", "Where was {S} born?", "place"), ("{S} was born on {V}.", "When was {S} born?", "date"),
    ("{S} was founded in {V}.", "When was {S} founded?", "date"), ("{S} was founded by {V}.", "Who founded {S}?", "person"),
    ("{S} lives in {V}.", "Where does {S} live?", "place"), ("{S} works for {V}.", "Who does {S} work for?", "org"),
    ("{S} works as {V}.", "What does {S} work as?", "title"), ("{S} studied {V}.", "What did {S} study?", "word"),
    ("{S} studied at {V}.", "Where did {S} study?", "org"), ("{S} married {V}.", "Who did {S} marry?", "person"),
    ("{S} costs {V}.", "How much does {S} cost?", "money"), ("{S} weighs {V}.", "How much does {S} weigh?", "qty"),
    ("{S} was made by {V}.", "Who made {S}?", "org"), ("{S} is made of {V}.", "What is {S} made of?", "word"),
    ("{S} was sold to {V}.", "Who was {S} sold to?", "org"), ("{S} was sold for {V}.", "What was {S} sold for?", "money"),
    ("{S} arrived at {V}.", "When did {S} arrive?", "time"), ("{S} left for {V}.", "Where did {S} leave for?", "place"),
    ("{S} joined {V}.", "What did {S} join?", "org"), ("{S} wrote {V}.", "What did {S} write?", "title"),
    ("{S} opened on {V}.", "When did {S} open?", "date"), ("{S} reports to {V}.", "Who does {S} report to?", "person"),
    ("{S} is located in {V}.", "Where is {S} located?", "place"), ("{S} won {V}.", "What did {S} win?", "title"),
    ("{S} is also known as {V}.", "What is {S} also known as?", "title"), ("{S} owns {V}.", "What does {S} own?", "phrase"),
    ("{S} is used for {V}.", "What is {S} used for?", "phrase"), ("{S} contains {V}.", "What does {S} contain?", "list"),
    ("{S} called for {V}.", "What did {S} call for?", "phrase"), ("{S} requires {V}.", "What does {S} require?", "phrase"),
    ("{S} ordered {V}.", "What did {S} order?", "phrase"), ("{S} speaks {V}.", "What does {S} speak?", "word"),
    ("{S} lost {V}.", "What did {S} lose?", "phrase"), ("{S} paid {V}.", "How much did {S} pay?", "money"),
    ("{S} met {V}.", "Who did {S} meet?", "person"), ("{S} complained of {V}.", "What did {S} complain of?", "phrase"),
    ("{S} moved to {V}.", "Where did {S} move?", "place"), ("{S} ended on {V}.", "When did {S} end?", "date"),
    ("{S} lasted {V}.", "How long did {S} last?", "time"), ("{S} has {V} seats.", "How many seats does {S} have?", "num"),
    ("{S} asked for {V}.", "What did {S} ask for?", "phrase"), ("{S} measured {V}.", "What did {S} measure?", "qty"),
    ("{S} named it {V}.", "What did {S} name it?", "title"), ("{S} prefers {V}.", "What does {S} prefer?", "word"),
    ("{S} was replaced by {V}.", "What was {S} replaced by?", "title"), ("{S} runs on {V}.", "What does {S} run on?", "word"),
)  # fmt: skip
HELD_RELATIONS = (
    ("{S} inherited {V}.", "What did {S} inherit?", "phrase"), ("{S} grew up in {V}.", "Where did {S} grow up?", "place"),
    ("{S} agreed to repair {V}.", "What did {S} agree to repair?", "phrase"), ("{S} hired {V}.", "Who did {S} hire?", "person"),
    ("{S} borrowed {V}.", "How much did {S} borrow?", "money"), ("{S} retired on {V}.", "When did {S} retire?", "date"),
    ("{S} carries {V}.", "What does {S} carry?", "list"), ("{S} was painted by {V}.", "Who painted {S}?", "person"),
)  # fmt: skip

CONNECTIVES = (
    "is", "was", ":", "as", "to", "=", "of", "named", "called", "reads", "shows", "at", "has", "are", "being", "-", "for",
    "equals", "says", "were", "remains", "in", "by", ",", "given as", "listed as", "set to", "noted as", "with", "on",
)  # fmt: skip
HELD_CONNECTIVES = ("means", "became", "stays", "counts as", "seems", "~", "into", "upon")
_ASKING = (
    "what",
    "which",
    "give",
    "find",
    "state",
    "tell",
    "show",
    "name",
    "how",
    "who",
    "where",
    "when",
    "list",
    "look up",
)
_HELD_ASKING = ("extract", "fetch", "report", "say", "read out", "quote")


def statement(d: Draw, held_out: bool, prose: bool) -> tuple[str, str]:
    """What stands before the value (with `{K}` in it or in what follows) and what stands after it."""
    if d.random() < 0.35:
        return _random_statement(d, held_out, prose)
    if prose:
        text = d.of(HELD_SENTENCES if held_out else SENTENCES)
    else:
        text = d.of(HELD_LINES if held_out else LINES)
    before, after = text.split("{V}")
    return before, after


def _random_statement(d: Draw, held_out: bool, prose: bool) -> tuple[str, str]:
    connective = d.of(HELD_CONNECTIVES if held_out else CONNECTIVES)
    head = " ".join([d.word() for _ in range(d.below(4))])
    tail = " ".join([d.word() for _ in range(d.below(3))])
    middle = d.word() + " " if d.random() < 0.3 else ""
    end = d.of((".", ";", ".")) if prose else ""
    the = d.of(("the ", "", "a ", "this ", "our ")) if prose else ""
    if d.random() < 0.8 or not prose:
        before = f"{head} {the}{{K}} {middle}{connective} ".lstrip()
        after = f" {tail}{end}" if tail and prose else end
    else:
        before = f"{head} " if head else ""
        after = f" {middle}{connective} {the}{{K}}" + (f" {tail}{end}" if tail else end)
    return before, after


def question(d: Draw, held_out: bool, bare: float) -> str:
    """A question with `{K}` in it: the bare field name with probability `bare`."""
    r = d.random()
    if r < bare:
        return "{K}:" if d.random() < 0.35 else "{K}"
    if d.random() < 0.3:
        head = d.of(_HELD_ASKING if held_out else _ASKING)
        filler = "".join([d.word() + " " for _ in range(d.below(4))])
        tail = "".join([" " + d.word() for _ in range(d.below(3))]) if d.random() < 0.4 else ""
        return f"{head} {filler}{d.of(('the ', '', 'its '))}{{K}}{tail}{d.of(('?', '', '?', '.'))}"
    return d.of(HELD_QUESTIONS if held_out else QUESTIONS)
