"""Reads Rust sources as tests/layering needs them: what a file imports, names by path, and defines. No compiler.

Comments and texts are left out, so a path inside of them (`#[serde(with = "…")]`) is not seen.
"""
import re

# Comments, texts (raw ones too) and characters; a lifetime is none of them.
NOISE = re.compile(r'''
    //[^\n]* | /\*.*?\*/ | \bb?r(\#*)".*?"\1 | "(?:\\.|[^"\\])*" | '(?:\\.[^']*|[^'\\])'
''', re.VERBOSE | re.DOTALL)
USE = re.compile(r'\buse\s+([^;]+);')
PATH = re.compile(r'(?<![\w:])(?:::)?((?:r#)?[A-Za-z_]\w*(?:\s*::\s*[A-Za-z_]\w*)+)')
CFG_TEST = re.compile(r'#\[cfg\(test\)\]')
ITEM = re.compile(r'''
    \b(?:(?:fn|struct|enum|union|trait|type|const|static|mod)\s+(?:mut\s+)?(?:r\#)?([A-Za-z_]\w*)
    | macro_rules!\s*([A-Za-z_]\w*))
''', re.VERBOSE)


def code(path):
    """A file's code, with lines where they were."""
    return NOISE.sub(lambda m: ' ' + '\n' * m[0].count('\n'), path.read_text())


def split(text):
    """`a, b::{c, d}` at its outer commas."""
    parts, depth, start = [], 0, 0
    for at, c in enumerate(text):
        depth += (c == '{') - (c == '}')
        if c == ',' and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [part.strip() for part in parts + [text[start:]] if part.strip()]


def renamed_leaves(tree):
    """(path, name) for each leaf of a `use` tree: `a::{b, c::d as e}` is `a::b` as `b` and `a::c::d` as `e`."""
    head, brace, rest = tree.strip().partition('{')
    if not brace:
        path, _, name = (part.strip() for part in re.sub(r'\s+as\s+', ' as ', head).partition(' as '))
        path = re.sub(r'\s', '', path).removesuffix('::self')
        return [(path, name or path.rpartition('::')[2])]
    prefix = re.sub(r'\s', '', head)
    found = []
    for part in split(rest[:rest.rindex('}')]):
        for path, name in renamed_leaves(part):
            whole = prefix.removesuffix('::') if path == 'self' else prefix + path
            found.append((whole, whole.rpartition('::')[2] if name == 'self' else name))
    return found


def line_of(text, at):
    return text.count('\n', 0, at) + 1


def uses(text):
    """(line, path, name here) of everything that `text`, a file's code, imports."""
    for match in USE.finditer(text):
        for path, name in renamed_leaves(match[1]):
            yield line_of(text, match.start()), path.removeprefix('::'), name


def without_uses(text):
    return USE.sub(lambda m: '\n' * m[0].count('\n'), text)


def named(text):
    """(line, path) of everything that `text` names by a path of two words or more, imports left out."""
    rest = without_uses(text)
    for match in PATH.finditer(rest):
        yield line_of(rest, match.start()), re.sub(r'\s', '', match[1])


def paths(path):
    """(line, path) of everything that the file imports or names by a path of two words or more."""
    text = code(path)
    return [(line, name) for line, name, _ in uses(text)] + list(named(text))


def items(text):
    """The names that `text` defines, at whatever depth."""
    return {match[1] or match[2] for match in ITEM.finditer(text)}


def without_tests(text):
    """`text`, and the modules that it declares for tests only: each item under `#[cfg(test)]` is left out."""
    test_modules = set()
    while match := CFG_TEST.search(text):
        end = end_of_item(text, match.end())
        declared = re.match(r'(?:\s*#\[[^\]]*\])*\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+(\w+)\s*;', text[match.end():end])
        if declared:
            test_modules.add(declared[1])
        text = text[:match.start()] + '\n' * text.count('\n', match.start(), end) + text[end:]
    return text, test_modules


def end_of_item(text, at):
    """Where the item ends that begins at `at`: after its `;` or its block."""
    depth, block = 0, False
    for end in range(at, len(text)):
        c = text[end]
        if c in '([{':
            block |= c == '{' and depth == 0
            depth += 1
        elif c in ')]}':
            depth -= 1
            if depth < 0:
                return end
            # The braces of `use a::{b, c};` end no item.
            if depth == 0 and c == '}' and block and not re.match(r'\s*;', text[end + 1:]):
                return end + 1
        elif depth == 0 and c in ';,':
            return end + 1
    return len(text)
