"""Which files of a crate import each other in a circle: what one of them does can then not be read without all others.

A file imports another where it imports, or names by a path, what that other one defines. What a module only passes on
(`pub use child::Thing`) counts as imported from where it is defined, so a `mod.rs` that declares its modules and passes
on what is theirs is in no circle. One that its children take something from which it defines itself, and that uses
them, is in one. Tests are left out.
"""
import re

from harness import rust


class File:
    def __init__(self, path, module):
        self.path = path
        self.module = module
        self.text, self.test_modules = rust.without_tests(rust.code(path))
        self.items = rust.items(self.text)
        self.uses = list(rust.uses(self.text))
        self.body = rust.without_uses(self.text)


def modules(root):
    """The files of the crate with the sources at `root`, by their module: `('zk', 'cache')`, or `()` for lib.rs."""
    found = {}
    for path in sorted(root.rglob('*.rs')):
        parts = path.relative_to(root).with_suffix('').parts
        if 'tests' in parts or parts[0] in ('main', 'bin'):
            continue
        if parts[-1] in ('mod', 'lib'):
            parts = parts[:-1]
        found[parts] = File(path, parts)
    for file in list(found.values()):
        for name in file.test_modules:
            for module in [m for m in found if m[:len(file.module) + 1] == (*file.module, name)]:
                del found[module]
    return found


class Crate:
    def __init__(self, root):
        self.files = modules(root)

    def definers(self, file, name, seen=()):
        """The files that define what `file` calls `name` (`a::b::C`)."""
        words = name.split('::')
        at, walked = file.module, 0
        if words[0] == 'crate':
            at, walked = (), 1
        elif words[0] in ('self', 'super'):
            while walked < len(words) and words[walked] in ('self', 'super'):
                at = at[:-1] if words[walked] == 'super' else at
                walked += 1
        return self.below(at, words[walked:], seen)

    def below(self, module, words, seen):
        while words and (*module, words[0]) in self.files:
            module, words = (*module, words[0]), words[1:]
        file = self.files.get(module)
        # A module by itself is not yet something that it defines.
        if file is None or not words or (module, words[0]) in seen:
            return set()
        if words[0] == '*':
            return {file}
        seen = (*seen, (module, words[0]))
        found, globs = set(), set()
        for _, path, name in file.uses:
            if name == words[0]:
                whole = '::'.join([path, *words[1:]])
                found |= self.definers(file, whole, seen) or self.definers(file, path, seen)
            elif name == '*' and words[0] not in file.items:
                globs |= self.definers(file, path.removesuffix('*') + '::'.join(words), seen)
        return found or ({file} if words[0] in file.items else globs)

    def imports(self, file):
        """(line, path, the other file) of everything of the crate that `file` takes from another one."""
        words = set(re.findall(r'\w+', re.sub(r'\bmod\s+\w+\s*;', '', file.body)))
        for line, path, name in file.uses:
            # What is passed on and not used here is imported by whoever takes it from here.
            if name in words or not self.is_public(file, line):
                for other in self.definers(file, path):
                    yield line, path, other
        for line, path in rust.named(file.text):
            for other in self.definers(file, path):
                yield line, path, other

    @staticmethod
    def is_public(file, line):
        return file.text.splitlines()[line - 1].lstrip().startswith('pub')

    def edges(self):
        """{module: {other module: (line, path) of one import}}"""
        found = {}
        for module, file in self.files.items():
            found[module] = {}
            for line, path, other in self.imports(file):
                if other is not file:
                    found[module].setdefault(other.module, (line, path))
        return found


def components(edges):
    """The sets of modules that reach each other, those of more than one; Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            members = set(stack[at:])
            del stack[at:]
            if len(members) > 1:
                found.append(members)

    for node in edges:
        if node not in index:
            visit(node)
    return found
