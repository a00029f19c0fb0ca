"""Our builder alone and beside Python Nodepool's: killed, compared, with large images, without space."""
import time

from harness import records, wait_for
from images import Site, check_quiet_locks, fake_images, image_provider, quiet, record_state
from world import FakeCloud, Skip, check, passed

# When it is killed: so many seconds after this was first seen. A build takes 1.4 s, an upload 0.7 s or 1.2 s, a deletion
# 0.1 s; in one cloud it is refused at first and takes a second more.
MOMENTS = (
    *(('build building', delay) for delay in (0, 0.2, 0.5, 0.9, 1.3, 1.4)),
    *(('upload uploading', delay) for delay in (0, 0.1, 0.3, 0.5, 0.7, 0.9)),
    *(('upload deleting', delay) for delay in (0, 0.05, 0.1)),
    *(('build deleting', delay) for delay in (0, 0.05, 0.3, 0.7, 1.0)),
)


def builder_killed(world):
    if world.python:
        raise Skip("upstream's fake cloud dies with its builder")
    cloud = FakeCloud(world.directory, None, api_delay=0.1)
    cloud.script({'cloud-b': {'hang_upload': 0.8, 'fail_image_delete': {'times': 1}}}, api_delay=0.1, hang_upload=0.3)
    image = {'name': 'image', 'formats': ['raw'], 'env-vars': {
        'RUNS': str(world.directory / 'runs'), 'STEPS': '7', 'STEP_SECONDS': '0.1'}}
    # A dead builder's locks last as long as its session.
    site = Site(world, 'killed', [image], [image_provider('cloud-a', 'image'), image_provider('cloud-b', 'image')],
                **{'zookeeper-timeout': 2.0})

    def start():
        return site.start(env=cloud.env, arguments=['--cleanup-interval', 1, '--retry-interval', 1])
    builder = start()
    images_in = fake_images(cloud)
    wait_for('ready: the first build', lambda: site.ready_builds('image'))
    quiet([site], images_in)
    # From here on something runs from the first build.
    [upload] = [key for key in records.uploads(site.client) if key[2] == 'cloud-a']
    [external] = cloud.images('cloud-a')
    records.create_node(site.client, '0000000001', state='in-use', provider='cloud-a', image_id=records.upload_path(upload))

    found = {}
    started = time.monotonic()
    for seen, delay in MOMENTS:
        before = site.ready_builds('image')[-1]
        site.build('image')

        def reached(seen=seen):
            kind, state = seen.split()
            found = records.builds(site.client) if kind == 'build' else records.uploads(site.client)
            return any(record['state'] == state for record in found.values())
        wait_for(f'seen: {seen}', reached, 30, 0.01)
        time.sleep(delay)
        builder.kill()
        clouds = sum(len(cloud.images(provider)) for provider in site.providers)
        what = f'{record_state(site.client)}; {clouds} images, {"a" if site.processes() else "no"} build running'
        found[what] = found.get(what, 0) + 1
        builder = start()
        try:
            wait_for('ready: another build', lambda: site.ready_builds('image')[-1:] != [before], 60)
            quiet([site], images_in, [upload])
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f'killed {delay} s after {seen} ({what}): {error}') from error
    passed(f'{len(MOMENTS)} kills in {time.monotonic() - started:.0f} s; each time records, files and clouds agreed '
           'afterwards, a build asked for before was ready, and the image that a node runs from was there')
    for what, times in found.items():
        passed(f'  {times} killed at: {what}')
    check(len(found) >= 6, 'most kills hit the same moment')
    check(external in cloud.images('cloud-a'), 'the image in use was deleted')
    site.client.delete('/nodepool/nodes/0000000001', recursive=True)
    quiet([site], images_in)
    check(external not in cloud.images('cloud-a'), 'the image that nobody uses any more stays')
    check(builder.stop() == 0, 'it did not end with status 0')
    check_quiet_locks(site.client)
    runs = len((world.directory / 'runs').read_text().split())
    passed(f'the node gone, its image went too; {runs} builds were begun for {len(MOMENTS) + 1} that were wanted')


SCENARIOS = (builder_killed,)
BY_NAME = ()
