"""Stage assign, part of the profile: the words and phrases that speak for something.

Written by hand for English, with the commonest small words of other languages to tell these apart. It is no
model: what is not in these lists is not seen, and what is in them is only a sign.
"""

from __future__ import annotations

from collections.abc import Mapping

MATHS, CODE, REASONING, STEPS = "maths", "code", "reasoning", "steps"
"""What makes a question more work."""
SHORT, LONG, STRUCTURED = "short answer", "long answer", "structured output"
"""What an answer should be like."""
SCIENCE, MEDICINE, LAW, FINANCE = "science", "medicine", "law", "finance"
"""Fields of knowledge besides mathematics and programming."""
LANGUAGE = "language "
"""Before the code of a language (ISO 639-1)."""

WORDS: Mapping[str, str] = {
    MATHS: (
        "equation equations integral derivative probability polynomial prime triangle remainder percent"
        " calculate compute solve algebra geometry theorem matrix vector fraction divisible perimeter"
        " diameter radius integer integers sum angle circle logarithm cosine sine modulo vertex vertices"
        " polygon inscribed perpendicular"
    ),
    CODE: (
        "def return import function const void public regex algorithm compile debug python javascript"
        " typescript rust golang sql bash java html css api docker git stacktrace refactor array boolean"
        " async lambda struct enum traceback segfault unittest assert println printf"
    ),
    REASONING: "why prove proof deduce infer therefore explain compare puzzle logic",
    STEPS: (
        "then after before first second finally each every respectively step twice half remaining unless"
        " except suppose assume if"
    ),
    SHORT: "briefly tldr",
    LONG: "essay detailed comprehensive thorough elaborate",
    STRUCTURED: "json yaml csv xml jsonl",
    SCIENCE: (
        "physics chemistry biology molecule molecular atom atoms electron electrons proton neutron quantum"
        " photon velocity acceleration momentum entropy enthalpy thermodynamics reaction reactions catalyst"
        " acid enzyme protein proteins cell cells dna rna gene genes genome species evolution photosynthesis"
        " planet galaxy orbit gravity gravitational magnetic isotope organism bacteria ecosystem wavelength"
        " spectrum organic compound hydrogen oxygen carbon nitrogen particle particles kinetic energy"
        " experiment"
    ),
    MEDICINE: (
        "patient patients diagnosis diagnose symptom symptoms disease diseases therapy clinical doctor"
        " physician hospital drug drugs dose dosage medication medications surgery cancer tumor tumour"
        " diabetes insulin hypertension infection antibiotic antibiotics vaccine blood cardiac pulmonary"
        " renal chronic acute anemia fever mg prescription prescribed syndrome lesion biopsy pain"
    ),
    LAW: (
        "law laws legal court courts judge jury plaintiff defendant contract contracts statute liability"
        " liable tort negligence attorney lawyer lawsuit clause jurisdiction constitutional amendment felony"
        " criminal verdict appeal litigation legislation copyright patent trademark gdpr compliance tenant"
        " landlord lease"
    ),
    FINANCE: (
        "stock stocks bond bonds equity dividend dividends portfolio investment investments investor"
        " interest mortgage loan loans inflation revenue profit profits asset assets liabilities accounting"
        " tax taxes gdp monetary fiscal bank banks banking hedge currency earnings valuation ebitda cashflow"
        " budget invoice ledger depreciation amortization"
    ),
    LANGUAGE + "en": (
        "the of and is are what how to in that it for with which this was be by from as can you"
    ),
    LANGUAGE + "de": (
        "der die das und ist nicht ein eine wie was ich zu mit den dem von für auf sie es wird im kann sind"
    ),
    LANGUAGE + "fr": "le la les et est un une des que qui pour dans pas vous je ne sur du quel quelle avec",
    LANGUAGE + "es": "el la los las es un una que de para en por con cuál qué no del se como está",
    LANGUAGE + "it": "il lo gli un una che di per in con non sono della come qual del si questo cosa",
    LANGUAGE + "pt": "os as um uma que de para em com não do da se qual como são você por",
    LANGUAGE + "nl": "de het een en is van niet wat hoe ik je dat voor met op zijn er aan te deze",
    LANGUAGE + "pl": "jest nie się na co jak to że dla do czy oraz są który przez od jakie",
    LANGUAGE + "tr": "ve bir bu ne nasıl için mi da de ile çok olan var değil nedir mı gibi daha kadar en",
    LANGUAGE + "vi": "là của và có không cho những một các được trong người này thì với như gì để tôi",
    LANGUAGE + "id": (
        "yang dan di itu dengan untuk adalah apa tidak ini dari dalam bagaimana pada ke saya akan"
    ),
    LANGUAGE + "ru": "не что на как это по из для он но или какой есть от чем",
    LANGUAGE + "uk": "не що на як це та для або який від чи цей але які про",
    LANGUAGE + "fa": "در به از که این است را با برای چه آن یک می های چگونه",
    LANGUAGE + "ar": "في من على ما هو أن هي إلى هل كيف هذا التي عن مع لا",
    LANGUAGE + "ur": "کے کی میں ہے کا سے کو اور یہ نے پر کیا ہیں",
    LANGUAGE + "hi": "है के में की और का से को यह क्या कि हैं पर एक",
}
"""Words in lower case by what they speak for."""

PHRASES: Mapping[str, tuple[str, ...]] = {
    MATHS: (
        *("how many", "how much", "\\frac", "\\sum", "\\int", "\\sqrt", "\\cdot", "\\pi", "\\theta", "\\le"),
        *("\\ge", "\\left", "\\begin{", "\\text{", "\\mathbb", "\\angle", "\\log"),
    ),
    CODE: ("write a function", "write a program", "write a script", "source code", "write code", "this code"),
    REASONING: ("true or false", "must be", "exactly one", "if and only if", "each of the following"),
    STEPS: ("given that",),
    SHORT: ("in one word", "one sentence", "yes or no", "only the answer", "single letter", "answer only"),
    LONG: ("write a story", "write an essay", "in detail"),
    STRUCTURED: ("json object", "json array", "as a table", "the following format", "comma-separated"),
}

LANGUAGE_OF_SCRIPT: Mapping[str, str] = {
    "Greek": "el",
    "Armenian": "hy",
    "Hebrew": "he",
    "Bengali": "bn",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Tibetan": "bo",
    "Myanmar": "my",
    "Georgian": "ka",
    "Hangul": "ko",
    "Ethiopic": "am",
    "Khmer": "km",
    "Mongolian": "mn",
    "Hiragana": "ja",
    "Katakana": "ja",
    "Han": "zh",
}
"""Of scripts that are written by one language nearly always; Han with some kana is Japanese."""
