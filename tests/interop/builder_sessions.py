"""What the end of a ZooKeeper session does to a builder's work: nothing."""
import os
import signal

from harness import records, wait_for
from images import Site, check_quiet_locks, contenders, image_provider, images_of, quiet
from world import FakeCloud, Skip, check, passed


def builder_session_lost(world):
    if world.python:
        raise Skip("upstream's builder gives such a build up")
    cloud = FakeCloud(world.directory, None)
    cloud.script({}, hang_upload=6)
    image = {'name': 'image', 'formats': ['raw'], 'env-vars': {
        'RUNS': str(world.directory / 'runs'), 'STEPS': '12', 'STEP_SECONDS': '0.5'}}
    site = Site(world, 'sessions', [image], [image_provider('cloud-a', 'image')], **{'zookeeper-timeout': 2.0})
    builder = site.start(env=cloud.env)

    def lose_session(what):
        """Stops the process, not its build, for longer than its session lasts."""
        os.kill(builder.pid, signal.SIGSTOP)
        try:
            wait_for(f'free: the locks, in the middle of {what}', lambda: not contenders(site.client), 30)
        finally:
            os.kill(builder.pid, signal.SIGCONT)
        # Else another builder would take the work for a dead one's.
        wait_for(f'taken again: the lock, in the middle of {what}', lambda: contenders(site.client), 10, 0.1)

    def state_of(found):
        return [record['state'] for record in found(site.client).values()]
    wait_for('building', lambda: state_of(records.builds) == ['building'])
    [build] = records.builds(site.client)
    lose_session('a build')
    check(state_of(records.builds) == ['building'], 'the build was over before the session: nothing was shown')
    wait_for('uploading', lambda: state_of(records.uploads) == ['uploading'], 60)
    check(site.ready_builds('image') == [build], f'{site.ready_builds("image")} are ready, {build} was begun')
    lose_session('an upload')
    check(state_of(records.uploads) == ['uploading'], 'the upload was over before the session: nothing was shown')
    wait_for('uploaded', lambda: state_of(records.uploads) == ['ready'], 60)
    [upload] = records.uploads(site.client)
    check(upload[3] == '0000000001', f'it took upload {upload[3]}')
    quiet([site], images_of(cloud))
    runs = (world.directory / 'runs').read_text().split()
    check(len(runs) == 1, f'it was built {len(runs)} times')
    check(builder.stop() == 0, 'it did not end with status 0')
    check_quiet_locks(site.client)
    passed('the session was lost in the middle of a build and of an upload: one build, one upload, both ready')


SCENARIOS = (builder_session_lost,)
