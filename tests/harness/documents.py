"""The documents: their commands, their links.

Commands that a reader is to type stand in blocks that begin with ```sh. Each is run by a test, or says behind it why not:
`# not run: needs a cluster`. docs/install.md is run by tests/deploy (each block in one shell), the others by
tests/monitoring (each line by itself, while launcher and builders run). Commands within a sentence are not run; that there
are such subcommands and options is looked up in the programs' own help.
"""
import functools
import re
import subprocess

from harness import ROOT, binary

INSTALL = ROOT / 'docs/install.md'
# Why a command is not run stands behind it.
NOT_RUN = re.compile(r'\s+# not run\b[^:,]*[:,] \S')
# What begins a command where no block tells that it is one.
PROGRAMS = re.compile(r'(\w+=\S+ )*(sudo |\S*/)?(nodepool|nodepool-launcher|nodepool-builder|dib-ansible|make|cargo|kubectl|'
                      r'docker|podman|ctr|systemctl|journalctl|curl|install|tests/\S+|deploy/images/\S+|promtool|openstack) ')
OURS = ('nodepool', 'nodepool-launcher', 'nodepool-builder')


def documents():
    """All of them."""
    found = [ROOT / 'README.md', *ROOT.glob('docs/**/*.md'), *ROOT.glob('deploy/**/*.md'), *ROOT.glob('tests/*.md')]
    return sorted(found)


def name_of(document):
    return str(document.relative_to(ROOT))


def blocks(text):
    """The blocks of commands, each a list of commands; one that ends with | or \\ goes on in the next line."""
    found = []
    for block in re.findall(r'(?ms)^ *```sh\n(.*?)^ *```$', text):
        found.append([])
        for line in block.splitlines():
            if found[-1] and found[-1][-1].endswith(('|', '\\')):
                found[-1][-1] += f'\n{line}'
            elif line.strip():
                found[-1].append(line)
    return found


def commands(document):
    """All commands of a document in blocks."""
    return [command for block in blocks(document.read_text()) for command in block]


def is_run(command):
    return not NOT_RUN.search(command)


def without_reason():
    """Commands that are marked as not run without a reason, and such that stand in no block of commands."""
    for document in documents():
        for command in commands(document):
            if is_run(command) and '# not run' in command:
                yield f'{name_of(document)}: no reason: {command}'
        # Also what a list indents; a line of a table or a text is none.
        rest = re.sub(r'(?ms)^ *```.*?^ *```$', '', document.read_text())
        for line in re.findall(r'(?m)^ {4,}(\S.*)$', rest):
            if PROGRAMS.match(f'{line} ') and not is_synopsis(line):
                yield f'{name_of(document)}: a command in no ```sh block: {line}'


def is_synopsis(line):
    """Whether it tells what there is, not what to type: `nodepool [-c FILE] COMMAND`, or a file and what it is."""
    return '[' in line or '…' in line or '   ' in line.split('#')[0].strip()


def mentioned():
    """(document, words) of each command of ours in a sentence, a table or a synopsis; words in capitals are left out."""
    for document in documents():
        text = document.read_text()
        inline = re.findall(r'`((?:nodepool|nodepool-launcher|nodepool-builder) [^`\n]+)`', text)
        # Tables of subcommands: each cell that begins with one follows its program's synopsis.
        synopses = [line for line in re.findall(r'(?m)^ {4,}(nodepool(?:-launcher|-builder)? .*)$', text) if is_synopsis(line)]
        for line in [*inline, *synopses]:
            words = re.sub(r'[\[\]…|]', ' ', line).split()
            yield document, [word for word in words if not word.isupper()]


@functools.cache
def help_of(program, *subcommand):
    """None where there is no such command."""
    done = subprocess.run([binary(program), *subcommand, '--help'], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def unknown():
    """Subcommands and options of ours that a document mentions and the programs do not know."""
    for document, (program, *words) in mentioned():
        subcommand, options = [], []
        known = help_of(program)
        for word in words:
            if word.startswith('-'):
                options.append((word, known))
            elif re.fullmatch(r'[a-z][a-z-]+', word) and re.search(rf'(?m)^ +{word}( |$)', known):
                subcommand.append(word)
                known = help_of(program, *subcommand)
            elif re.fullmatch(r'[a-z][a-z-]+', word) and not subcommand and not options:
                yield f'{name_of(document)}: there is no {program} {word}'
        for option, text in options:
            option = option.partition('=')[0]
            if not re.search(rf'(?<![\w-]){re.escape(option)}(?![\w-])', text):
                yield f'{name_of(document)}: {program} {" ".join(subcommand)} has no {option}'


def unknown_targets():
    """Targets of make and scripts of the repository that a document mentions and that are not there."""
    targets = set(re.findall(r'(?m)^([a-z-]+):', (ROOT / 'Makefile').read_text()))
    for document in documents():
        text = document.read_text()
        for line in re.findall(r'(?:`|^ {4,}|^)(?:\w+=\S+ )*make ([a-z -]+?)(?:`|  | #|$)', text, re.M):
            yield from (f'{name_of(document)}: make has no {target}' for target in set(line.split()) - targets)
        for script in re.findall(r'`((?:tests|deploy)/[\w/.-]+)[ `]', text):
            if not (ROOT / script).exists():
                yield f'{name_of(document)}: there is no {script}'


def anchors(document):
    """As GitHub makes them of headings."""
    headings = re.findall(r'^#+ (.+)$', document.read_text(), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-') for heading in headings}


def broken_links():
    """Links between the documents that lead to no file, or to no title of it."""
    for document in documents():
        text = re.sub(r'(?ms)^ *```.*?^ *```$', '', document.read_text())
        for target in re.findall(r'\]\(([^)\s]+)\)', text):
            if '://' in target:
                continue
            file, _, anchor = target.partition('#')
            there = (document.parent / file).resolve() if file else document
            if not there.exists():
                yield f'{name_of(document)}: {target}: there is no such file'
            elif anchor and anchor not in anchors(there):
                yield f'{name_of(document)}: {target}: there is no such section'
