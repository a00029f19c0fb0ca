"""Runs upstream's tests one after another in this process: one test id a line on stdin, one JSON result a line on
the file descriptor given as the last argument. The first one says whose daemons the tests get: `ours`,
`python-builder` (our launcher only) or `upstream`. `--list MODULE…` prints the ids instead.

Started by ./run with upstream's source directory as working directory (the tests' configurations name files in it).
"""
import json
import os
import sys
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.getcwd(), os.path.join(ROOT, 'tests'), os.path.dirname(os.path.abspath(__file__))]

import testtools  # noqa: E402


def ids(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from ids(test)
        else:
            yield test.id()


def run(test_id):
    suite = unittest.defaultTestLoader.loadTestsFromName(test_id)
    result = testtools.TestResult()
    started = time.monotonic()
    suite.run(result)
    problems = [text for _, text in result.errors + result.failures] + [str(t) for t in result.unexpectedSuccesses]
    skipped = [reason for reason in result.skip_reasons]
    return {
        'test': test_id,
        'result': 'fail' if problems else 'skip' if skipped else 'pass',
        'seconds': round(time.monotonic() - started, 1),
        'detail': '\n\n'.join(problems or skipped),
    }


def main():
    arguments = sys.argv[1:]
    if arguments[0] == '--list':
        for module in arguments[1:]:
            for test_id in ids(unittest.defaultTestLoader.loadTestsFromName(f'nodepool.tests.unit.{module}')):
                print(test_id)
        return
    mode, fd = arguments
    import nodepool.launcher
    lock_cleanup = nodepool.launcher.LOCK_CLEANUP
    if mode != 'upstream':
        import adapter
        adapter.install(builder=mode == 'ours')
    with os.fdopen(int(fd), 'w', buffering=1) as results:
        for line in sys.stdin:
            # Tests set this and leave it.
            nodepool.launcher.LOCK_CLEANUP = lock_cleanup
            results.write(json.dumps(run(line.strip())) + '\n')
        results.flush()
        # Threads that a test left behind must not keep this process.
        os._exit(0)


main()
