"""Spelling of an answer before it is read: unicode to LaTeX, separators of thousands, what is refused outright.

Owns the characters. Pure, linear in the length; called by the parser and the comparison of strings. Knows no grammar: style commands and spaces
are the tokenizer's.
"""

import re
import unicodedata

MAX_CHARACTERS = 4096

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "－": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": r"\div ", "∕": "/", "⁄": "/",
    "√": r"\sqrt ", "∛": r"\cbrt ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ",
    "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "°": r"^{\circ}", "º": r"^{\circ}", "∘": r"^{\circ}",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "∖": r"\setminus ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "〈": r"\langle ", "〉": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "‘": "'", "’": "'", "“": '"', "”": '"', "′": "'", "…": "...", "€": r"\euro ", "£": r"\pounds ", "∠": r"\angle ", "△": r"\triangle ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ",
    "ρ": r"\rho ",
    "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "ω": r"\omega ", "Δ": r"\Delta ", "Γ": r"\Gamma ", "Ω": r"\Omega ", "Σ": r"\Sigma ",
    "ζ": r"\zeta ", "η": r"\eta ", "κ": r"\kappa ", "ξ": r"\xi ", "ψ": r"\psi ", "χ": r"\chi ", "ν": r"\nu ", "𝜋": r"\pi ", "𝑒": "e",
}  # fmt: skip
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u2061\u2062\u2063\u2064\ufe0e\ufe0f"
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ"
_LOWERED = "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₕₖₗₘₙₚₛₜ"
_RAISED_RUN = re.compile(f"[{_RAISED}]+")
_LOWERED_RUN = re.compile(f"[{_LOWERED}]+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e]")
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\u0300-\u036f\u0483-\u0489\u20d0-\u20f0]")
_FORBIDDEN = re.compile(
    r"\\(?:def|edef|gdef|let|newcommand|renewcommand|providecommand|input|include|write[0-9]*|openout|openin|read|csname|expandafter|href|url|catcode|immediate"
    r"|phantom|hphantom|vphantom|cancel|bcancel|xcancel|sout|iffalse|iftrue|if|else|fi|special|usepackage|includegraphics|verbatiminput|lstinputlisting)(?![A-Za-z])"
    r"|(?<!\\)%[^\s$}]{0,40}[A-Za-z]"
)
_THOUSANDS = re.compile(r"(?<=[0-9])\s*(?:\{,\}|,\\!|\{,\}\\!|\\text\{,\}|\\mbox\{,\}|\\mathord\{,\})\s*(?=[0-9]{3}(?![0-9]))")
_ROW_GAP = re.compile(r"\\\\ ?\[ ?-?[0-9.]{1,5} ?(?:pt|ex|em|mm|cm) ?\]")
_BLANKS = re.compile(r"\s{2,}|[\n\r\t]")
_LONE_ZERO = re.compile(r"(?<![0-9.,])0\{,\}([0-9]+)")
_BRACED_COMMA = re.compile(r"(?<=[0-9])\{,\}(?=[0-9])")
_ROOT_OF = re.compile(r"([√∛])\s*([0-9]+(?:\.[0-9]+)?)")
_TABLE = {ord(sign): spelled for sign, spelled in _SIGNS.items()} | {ord(sign): None for sign in _INVISIBLE}


def normalise(text: str) -> str | None:
    """The answer in ASCII LaTeX as far as signs go; None where the text is refused: too long, control characters, reordered, macros."""
    if len(text) > MAX_CHARACTERS:
        return None
    if not text.isascii():
        text = _to_ascii(text)
    if _REFUSED.search(text) is not None or (("\\" in text or "%" in text) and _FORBIDDEN.search(text) is not None):
        return None
    text = _BLANKS.sub(" ", text)
    if "{:}" in text:
        text = text.replace("{:}", ":")
    if "\\\\[" in text or "\\\\ [" in text:
        text = _ROW_GAP.sub(r"\\\\", text)
    if "," in text and ("{,}" in text or ",\\!" in text):
        text = _THOUSANDS.sub("", _LONE_ZERO.sub(r"0.\1", text))
        text = _BRACED_COMMA.sub(",", text)
    return text.strip()


def _to_ascii(text: str) -> str:
    text = _RAISED_RUN.sub(lambda run: "^{" + unicodedata.normalize("NFKC", run.group()).replace("−", "-") + "}", text)
    text = _LOWERED_RUN.sub(lambda run: "_{" + unicodedata.normalize("NFKC", run.group()).replace("−", "-") + "}", text)
    text = _VULGAR.sub(_spell_fraction, text)
    text = _ROOT_OF.sub(r"\1{\2}", text)
    text = text.translate(_TABLE)
    if text.isascii():
        return text
    return "".join(letter if letter.isascii() else _fold(letter) for letter in text)


def _spell_fraction(sign: "re.Match[str]") -> str:
    above, _, below = unicodedata.normalize("NFKC", sign.group()).partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}"


def _fold(letter: str) -> str:
    """NFKC for digits, signs, brackets and spaces; a letter stays what it is, look-alikes too."""
    category = unicodedata.category(letter)
    if category in ("Nd", "Ps", "Pe", "Pd", "Po", "Sm", "Sc", "Zs"):
        folded = unicodedata.normalize("NFKC", letter)
        if category == "Nd" and not folded.isascii():
            return letter
        return _SIGNS.get(folded, folded)
    return letter
