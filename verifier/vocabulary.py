"""The words of the language of answers: commands, operators, functions, letters.

Owns which of them are style, which are operators and under which one name the grammar knows them. Plain tables; called by the tokenizer.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _commands(text: str) -> frozenset[str]:
    return frozenset("\\" + name for name in text.split())


STYLES = _commands("""
    displaystyle textstyle scriptstyle scriptscriptstyle left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm middle
    limits nolimits bf it rm sf tt em boldmath normalsize large Large small tiny huge Huge mathstrut strut nonumber notag hfill centering quad
    qquad hspace* ensuremath mathopen mathclose mathrel mathbin mathord bfseries itshape rmfamily cal
""")
"""Dropped where they stand."""
SPACES = frozenset(("\\,", "\\;", "\\:", "\\!", "\\ ", "\\/", "\\>", "\\\n", "\\(", "\\)", "\\[", "\\]"))
UPRIGHT = _commands("""
    emph hbox mathit mathrm mathsf mathtt mbox operatorname text textbf textit textnormal textrm textsc textsf texttt textup
""")
"""Their braces hold words, numbers or units."""
WRAPPED = _commands("""
    bm boldsymbol boxed fbox fcolorbox hat mathbf mathcal mathfrak mathnormal mathscr pmb smash tilde underline vec
""")
"""Style with braces: the command goes, its content stays."""
MARKED = _commands("vec hat tilde")
"""Style that makes another name."""
GREEK = _commands("""
    Delta Gamma Lambda Omega Phi Pi Psi Sigma Theta Upsilon Xi alpha beta chi delta ell epsilon eta gamma hbar iota kappa lambda mu nu omega phi
    pi psi rho sigma tau theta upsilon varepsilon varphi varrho vartheta xi zeta
""")
ALIASES = {"\\varphi": "\\phi", "\\varepsilon": "\\epsilon", "\\vartheta": "\\theta", "\\varrho": "\\rho"}
"""Two shapes of one letter."""
GREEK_WORDS = _words("""
    alpha beta delta epsilon gamma lambda mu omega phi pi rho sigma tau theta
""")
STRUCTURES = _commands("""
    angle bar begin binom cbrt cdots cfrac circ dbinom dfrac dot dots emptyset frac iint infty int ldots lim mathbb measuredangle
    nicefrac overline overrightarrow prod root sfrac sqrt sum tbinom tfrac triangle varnothing
""")
"""Commands with arguments or a meaning of their own."""
_SPELLINGS: dict[str, str] = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc", "arctg": "arctan", "sgn": "sign",
    "arcsinh": "arsinh", "arccosh": "arcosh", "arctanh": "artanh", "asinh": "arsinh", "acosh": "arcosh", "atanh": "artanh", "LCM": "lcm",
    "GCD": "gcd", "bmod": "mod",
}  # fmt: skip
_FUNCTION_NAMES = _words("""
    sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot arcsec arccsc ln log lg exp max min gcd lcm det Re Im arg deg sign
    mod abs arsinh arcosh artanh floor ceil sqrt cbrt binom cis
""")
FUNCTIONS: dict[str, str] = {name: name for name in sorted(_FUNCTION_NAMES)} | _SPELLINGS
"""Every spelling of a function, and its one name."""
OPERATORS: dict[str, str] = {
    "\\cdot": "*", "\\times": "*", "\\ast": "*", "\\bullet": "*", "\\div": "/", "\\pm": "+-", "\\mp": "-+", "\\le": "<=", "\\leq": "<=",
    "\\leqslant": "<=", "\\leqq": "<=", "\\lt": "<", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\geqq": ">=", "\\gt": ">",
    "\\ne": "!=", "\\neq": "!=", "\\in": "in", "\\approx": "~", "\\simeq": "~", "\\doteq": "~", "\\equiv": "===", "\\cup": "cup",
    "\\bigcup": "cup", "\\cap": "cap", "\\setminus": "minus", "\\backslash": "minus", "\\lvert": "|", "\\rvert": "|", "\\vert": "|",
    "\\mid": "|", "\\lVert": "||", "\\rVert": "||", "\\Vert": "||", "\\|": "||", "\\{": "{{", "\\}": "}}", "\\lbrace": "{{",
    "\\rbrace": "}}", "\\langle": "<<", "\\rangle": ">>", "\\lfloor": "lfloor", "\\rfloor": "rfloor", "\\lceil": "lceil",
    "\\rceil": "rceil", "\\colon": ":", "\\land": "and", "\\wedge": "and", "\\lor": "or", "\\vee": "or", "\\lbrack": "[", "\\rbrack": "]",
    "\\lparen": "(", "\\rparen": ")", "\\%": "%", "\\choose": "choose", "\\over": "over", "\\end": "\\end", "\\degree": "deg", "\\$": "$",
    "\\\\": "\\\\", "\\to": "to", "\\rightarrow": "to", '\\prime': "'", "\\not": "not", "\\notin": "notin", "\\sim": "sim",
    "\\implies": "implies", "\\Rightarrow": "implies", "\\&": "text&", "\\pmod": "pmod", "\\euro": "euro", "\\pounds": "pounds",
    "\\textdollar": "$", "\\dollar": "$", "\\textdegree": "deg", "**": "^", "<=": "<=", ">=": ">=", "!=": "!=", "=<": "<=", "=>": ">=",
    "==": "=", ":=": "=", "+/-": "+-", "+-": "+-", "-+": "-+",
}  # fmt: skip
