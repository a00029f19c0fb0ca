#!/usr/bin/env python3
"""nodepool/*.yaml: what `nodepool config-validate` says of each, Python's and ours.

Beside each NAME.yaml stands NAME.expect, of these lines:

  python accepts | python refuses       the exit status of Nodepool 11.0.0's command
  ours accepts | ours refuses           that of ours
  error LINE:COLUMN WORDS               an ERROR of ours at that place that has these words; all of them are listed
  warning LINE:COLUMN WORDS             likewise a WARNING; others may be there

Whatever stands there, ours may accept no file that Python's refuses, but for one with keys of our own, of which it says that.
"""
import contextlib
import os
import pathlib
import re
import subprocess
import sys

# In the place of this directory, where this very file would be taken for Python's package of its name.
sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
from harness import binary  # noqa: E402

from nodepool.cmd.nodepoolcmd import NodePoolCmd  # noqa: E402
from nodepool.driver import Drivers  # noqa: E402

FILES = pathlib.Path(__file__).resolve().parent / 'nodepool'
EXPECTED = re.compile(r'(python|ours) (accepts|refuses)$|(error|warning) (\d+:\d+) (.+)$')


def python_accepts(path):
    """Runs Python's command in a child of this process, which has loaded it and its drivers already."""
    child = os.fork()
    if child == 0:
        status = 3
        with contextlib.suppress(BaseException), open(os.devnull, 'w') as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            sys.argv = ['nodepool', '-c', str(path), 'config-validate']
            status = NodePoolCmd.main() or 0
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 1, 3):
        raise RuntimeError(f'Python ended with {status}')
    return status == 0


def ours(path):
    """Whether ours accepts it, and its lines: (level, place, text)."""
    done = subprocess.run([binary('nodepool'), '-c', path, 'config-validate'], capture_output=True, text=True, timeout=60,
                          env={'PATH': '/usr/local/bin:/bin'})
    if done.returncode not in (0, 1):
        raise RuntimeError(f'ours ended with {done.returncode}: {done.stderr}')
    lines = re.findall(r'^.*? (ERROR|WARNING) .*?' + re.escape(str(path)) + r':(\d+:\d+): (.*)$', done.stderr, re.M)
    return done.returncode == 0, [(level.lower(), place, text) for level, place, text in lines]


def expectations(path):
    status, lines = {}, []
    for line in path.read_text().splitlines():
        match = EXPECTED.match(line)
        if not match:
            raise ValueError(f'{path.name}: {line!r}')
        who, what, level, place, words = match.groups()
        if who:
            status[who] = what == 'accepts'
        else:
            lines.append((level, place, words))
    return status, lines


def differences(path):
    """What is not as the file beside it says."""
    status, expected = expectations(path.with_suffix('.expect'))
    accepted = python_accepts(path)
    accepts, said = ours(path)
    is_told = any("Python Nodepool's config-validate refuses a file that has" in text for _, _, text in said)
    if accepts and not accepted and not is_told:
        yield 'ours accepts what Python refuses'
    for who, is_so in (('python', accepted), ('ours', accepts)):
        if is_so != status[who]:
            yield f'{who} {"accepts" if is_so else "refuses"} it'
    for level, place, words in expected:
        if not any(said_level == level and said_place == place and words in text for said_level, said_place, text in said):
            yield f'not told: {level} {place} {words}'
    errors = sum(level == 'error' for level, _, _ in said)
    listed = sum(level == 'error' for level, _, _ in expected)
    if errors != listed:
        yield f'{errors} errors, of which {listed} are listed'
    if any('\n' in text or len(text) > 500 for _, _, text in said):
        yield 'a message that nobody reads'


def main():
    passed = failed = 0
    Drivers.load()
    for path in sorted(FILES.glob('*.yaml')):
        problems = list(differences(path))
        passed, failed = passed + (not problems), failed + bool(problems)
        if problems:
            print(f'FAIL {path.name}: ' + '; '.join(problems))
            for level, place, text in ours(path)[1]:
                print(f'     {level} {place} {text}')
    for path in sorted(set(FILES.glob('*.expect')) - {p.with_suffix('.expect') for p in FILES.glob('*.yaml')}):
        print(f'FAIL {path.name}: there is no file for it')
        failed += 1
    print(f'{passed} passed, {failed} failed, 0 skipped')
    return 1 if failed or not passed else 0


if __name__ == '__main__':
    sys.exit(main())
