"""What the parts of this test share: counting, manifests as kustomize renders them, the repository's own programs."""
import os
import pathlib
import shutil
import subprocess
import sys
import traceback

import yaml

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from harness import ROOT, TESTS, VENV, binary  # noqa: E402

DEPLOY = ROOT / 'deploy'
KUBERNETES = DEPLOY / 'kubernetes'
OVERLAYS = [KUBERNETES / 'overlays/trial', KUBERNETES / 'overlays/site']


class Skip(Exception):
    """What is missing here."""


class Failure(Exception):
    """What is not as it should be."""


def check(true, message):
    if not true:
        raise Failure(message)


class Counts:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def run(self, function, *arguments):
        """One check; what it is comes from its first line of documentation."""
        name = function.__doc__.strip().splitlines()[0].rstrip('.')
        try:
            found = function(*arguments)
        except Skip as reason:
            self.skipped += 1
            print(f'deploy: skipped: {name}: {reason}', flush=True)
        except Exception as error:  # whatever it is, the next check shall run
            self.failed += 1
            print(f'deploy: FAILED: {name}: {error}', flush=True)
            if not isinstance(error, Failure):
                traceback.print_exc(file=sys.stdout)
        else:
            self.passed += 1
            print(f'deploy: passed: {name}' + (f' ({found})' if found else ''), flush=True)

    def made(self, what, factory, *arguments):
        """What a factory makes for the checks that follow, or None: then that counts as one that failed or was skipped."""
        made = []

        def making():
            made.append(factory(*arguments))
        making.__doc__ = what
        self.run(making)
        return made[0] if made else None

    def each(self, *steps):
        """Steps that stand on each other: the first that is not passed is the last."""
        for step in steps:
            passed = self.passed
            self.run(step)
            if self.passed == passed:
                break

    def __str__(self):
        return f'{self.passed} passed, {self.failed} failed, {self.skipped} skipped'


def run(*command, ok=True, **options):
    """A command's result, with its output as text; one that fails is a failure that shows what it said."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, **options)
    if ok and done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise Failure(f'{" ".join(map(str, command))}: status {done.returncode}: {said[-2000:]}')
    return done


def kubectl():
    """The kubectl on the PATH, else the one that build-kubectl makes from its Go modules."""
    found = shutil.which('kubectl')
    if found:
        return found
    built = subprocess.run([HERE / 'build-kubectl'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if built.returncode:
        raise Skip(f'there is no kubectl: {built.stderr.strip().splitlines()[-1]}')
    return built.stdout.strip()


def render(directory):
    """The objects of a kustomization."""
    return [d for d in yaml.safe_load_all(run(kubectl(), 'kustomize', directory).stdout) if d]


def of_kind(objects, *kinds):
    return [o for o in objects if o['kind'] in kinds]


def workloads(objects):
    return of_kind(objects, 'Deployment', 'StatefulSet')


def name(o):
    return f'{o["kind"]}/{o["metadata"]["name"]}'


def containers(pod_spec):
    return [*pod_spec.get('initContainers', []), *pod_spec['containers']]


def named_object(objects, kind, wanted):
    [found] = [o for o in objects if o['kind'] == kind and o['metadata']['name'] == wanted]
    return found


def programs():
    """Our programs by their names; a missing one is a reason to skip."""
    found = {p: binary(p) for p in ('nodepool', 'nodepool-launcher', 'nodepool-builder')}
    found['dib-ansible'] = found['nodepool-builder'].parent / 'dib-ansible'
    missing = [str(path) for path in found.values() if not path.exists()]
    if missing:
        raise Skip(f'{", ".join(missing)} missing: cargo build')
    return found


def need_root():
    if os.geteuid():
        raise Skip('needs root')


# What others take from here, of what is imported too.
__all__ = ['DEPLOY', 'HERE', 'KUBERNETES', 'OVERLAYS', 'ROOT', 'TESTS', 'VENV', 'Counts', 'Failure', 'Skip', 'check',
           'containers', 'kubectl', 'name', 'named_object', 'need_root', 'of_kind', 'programs', 'render', 'run', 'workloads']
