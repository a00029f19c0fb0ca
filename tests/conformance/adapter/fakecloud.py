"""Serves upstream's in-process fake cloud to the fake driver of one of our daemons, over a Unix socket.

Upstream's tests patch their fake cloud at every level: the class, the adapter, its client, single methods, counters.
So each call goes through the highest method of upstream's adapter that does what our driver asks for; whatever a
test patched takes effect, and what the tests look at afterwards are these same objects.

The protocol is that of crates/drivers/src/fake/remote.rs: a JSON object a line,

  -> {"id": 7, "provider": "fake-provider", "method": "create_server", "params": {…}}
  <- {"id": 7, "result": …}   or   {"id": 7, "error": {"class": "quota", "message": "…", "external_id": …}}

Errors are classed by the rules of upstream's driver (driver/openstack/adapter.py, advance).
"""
import json
import logging
import math
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import openstack.exceptions
from openstack.cloud.exc import OpenStackCloudCreateException

from nodepool import exceptions, nodeutils, provider_manager
from nodepool.driver import statemachine

log = logging.getLogger('conformance.fakecloud')


class ClassedError(Exception):
    def __init__(self, kind, message, external_id=None):
        super().__init__(message)
        self.kind = kind
        self.external_id = external_id


class FakeCloud:
    """The server and the provider managers behind it, for one daemon."""

    def __init__(self, path, daemon, only_image_manager):
        self.path = path
        self._daemon = daemon
        self._only_image_manager = only_image_manager
        self._listener = None
        # Named as upstream's tests expect of threads that may stay.
        self._pool = ThreadPoolExecutor(16, thread_name_prefix='ThreadPoolExecutor-conformance')

    def reconfigure(self, old, new, zk):
        """Upstream's ProviderManager.reconfigure for the providers on the fake driver; the others are ours alone."""
        wanted = new.providers
        new.providers = {n: p for n, p in wanted.items() if p.driver.name == 'fake'}
        try:
            provider_manager.ProviderManager.reconfigure(old, new, zk, self._only_image_manager)
        finally:
            new.providers = wanted

    def start(self):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, name='Thread-conformance-cloud', daemon=True).start()

    def stop(self):
        self._listener.close()
        os.unlink(self.path)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._daemon._config:
            provider_manager.ProviderManager.stopProviders(self._daemon._config)

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name='Thread-conformance-peer',
                             daemon=True).start()

    def _serve(self, connection):
        writing = threading.Lock()

        def answer(call):
            reply = {'id': call['id']}
            try:
                reply['result'] = self._call(call['provider'], call['method'], call.get('params') or {})
            except Exception as error:
                reply['error'] = describe(error)
                log.debug('%s %s: %s', call['provider'], call['method'], reply['error'], exc_info=True)
            with writing:
                try:
                    connection.sendall(json.dumps(reply).encode() + b'\n')
                except OSError:
                    pass

        with connection, connection.makefile('rb') as lines:
            try:
                for line in lines:
                    self._pool.submit(answer, json.loads(line))
            except (OSError, RuntimeError):
                pass

    def _call(self, provider, method, params):
        if method == 'hello':
            # Our daemon has read the configuration anew: so do we, before it asks for anything.
            self._daemon.updateConfig()
        manager = self._daemon.getProviderManager(provider)
        if manager is None and (driver := self._daemon.driverOf(provider)) in OURS_ALONE:
            return getattr(OURS_ALONE[driver], method)(self._daemon, **params)
        if manager is None:
            raise ClassedError('config', f'provider {provider} could not be started')
        return getattr(Calls(manager), method)(**params)


class Calls:
    """What our driver may ask of one provider."""

    def __init__(self, manager):
        self._manager = manager
        self._adapter = manager.adapter

    def hello(self, **_):
        provider = self._adapter.provider
        return {'cloud': provider.cloud_config.name, 'region': provider.region_name}

    def create_server(self, name, image=None, flavor=None, az=None, security_groups=None, nics=None, key_name=None,
                      config_drive=None, meta=None, userdata=None, boot_from_volume=False, volume_size=None):
        flavor = self._adapter._findFlavorByName(flavor['id'] if isinstance(flavor, dict) else flavor)
        networks = [n if isinstance(n, str) else n['net-id'] for n in nics or []]
        try:
            server = self._adapter._createServer(
                name, image=image, flavor=flavor, az=az, key_name=key_name, config_drive=config_drive,
                networks=networks, security_groups=security_groups, boot_from_volume=boot_from_volume,
                volume_size=volume_size, instance_properties=meta, userdata=userdata)
        except OpenStackCloudCreateException as error:
            self._raise_fault(error)
        except Exception as error:
            text = str(error).lower()
            if 'quota exceeded' in text or 'number of ports exceeded' in text:
                self._quota(error)
            raise
        return server_fields(server)

    def _raise_fault(self, error):
        external_id = error.resource_id
        server = self._adapter._getServerByIdNow(external_id) if external_id else None
        fault = ((server and server.get('fault')) or {}).get('message')
        if fault and 'quota' in fault:
            self._quota(fault, external_id)
        raise ClassedError('transient', fault or str(error), external_id)

    def _quota(self, why, external_id=None):
        # Upstream's launcher forgets its cached limits here; tests watch that on the Python object.
        self._manager.invalidateQuotaCache()
        raise ClassedError('quota', str(why), external_id)

    def list_servers(self):
        # The class's method: the adapter's own answers from a cache of a second, which is its pacing, not the cloud's.
        return [server_fields(s) for s in type(self._adapter)._listServers(self._adapter)]

    def delete_server(self, id):
        self._adapter._deleteServer(id)

    def list_flavors(self):
        return [flavor_fields(f) for f in self._adapter._listFlavors()]

    def find_image(self, name_or_id):
        image = self._adapter._findImage(name_or_id)
        return image and {'id': image.id, 'name': image.name, 'status': image.status}

    def upload_image(self, name, filename=None, disk_format=None, md5=None, sha256=None, size=None, metadata=None):
        return {'id': self._manager.uploadImage(None, name, filename, disk_format, metadata, md5, sha256)}

    def delete_image(self, id):
        self._manager.deleteImage(None, id)

    def list_images(self):
        # What an image was made with; the one that is there from the start was made with nothing.
        return [{**getattr(i, '_kw', {}), 'id': i.id, 'name': i.name} for i in self._adapter._client.list_images()]

    def find_network(self, name_or_id):
        network = self._adapter._findNetwork(name_or_id)
        return {'id': network['id'], 'name': network['name']}

    def availability_zones(self):
        return self._adapter._listAZs()

    def compute_limits(self):
        limits = self._adapter._client.get_compute_limits()
        return {name: number(getattr(limits, name))
                for name in ('max_total_cores', 'max_total_instances', 'max_total_ram_size')}

    def volume_limits(self):
        limits = self._adapter._client.get_volume_limits()
        return {'absolute': {name: number(limit) for name, limit in limits['absolute'].items()}}

    def list_ports(self, status=None):
        return [{'id': p.id, 'status': p.status, 'device_owner': p.device_owner}
                for p in self._adapter._listPorts(status=status)]

    def delete_port(self, id):
        self._adapter._deletePort(id)

    def list_floating_ips(self):
        return [{'id': f.id, 'port_id': f.get('port_id')} for f in self._adapter._listFloatingIps()]

    def console(self, id):
        return self._adapter._client.get_server_console(id)

    def label_ready(self, pool, label):
        # Without what the adapter remembers of images: for how long one is believed to be missing, our launcher decides.
        # (A test may have put a function of its own in this place.)
        getattr(self._adapter._findImage, 'cache_clear', lambda: None)()
        return self._manager.labelReady(self._adapter.provider.pools[pool].labels[label])

    def host_keys(self, node, address, connection_type=None, port=None):
        """A scan by upstream's worker, whose steps tests patch."""
        record = self._manager._zk.getNode(node, cached=False)
        return scan(self._manager.nodescan_worker, node, address, connection_type or record.connection_type,
                    port or record.connection_port, self._adapter.provider.boot_timeout)


class StaticHosts:
    """What our static driver may ask of the host names that upstream's scan makes up answers for."""

    @staticmethod
    def hello(daemon, **_):
        return {}

    @staticmethod
    def host_keys(daemon, node, address):
        """By upstream's scan, which tests patch; None: have a look yourself."""
        return nodeutils.nodescan(address) if 'fake' in address else None


class MetastaticNodes:
    """The same for our metastatic driver."""
    hello = StaticHosts.hello

    @staticmethod
    def host_keys(daemon, node, address):
        """A scan by upstream's worker, whose steps tests patch."""
        record = daemon.zk.getNode(node, cached=False)
        return scan(daemon.scanner(), node, address, record.connection_type, record.connection_port, 120)


# Drivers that upstream's managers in the test's process have no part in.
OURS_ALONE = {'static': StaticHosts, 'metastatic': MetastaticNodes}


def scan(worker, node, address, connection_type, port, timeout):
    target = SimpleNamespace(id=node, interface_ip=address, connection_type=connection_type, connection_port=port)
    request = statemachine.NodescanRequest(target, True, timeout, log)
    worker.addRequest(request)
    while not request.complete:
        time.sleep(0.02)
    return request.result()


def server_fields(server):
    """As the compute API would say it, whether from a listing or from a creation."""
    flavor = server.get('flavor')
    location = server.get('location')
    same = ('id', 'name', 'status', 'public_v4', 'public_v6', 'private_v4', 'interface_ip', 'fault')
    return {
        **{key: server.get(key) for key in same},
        'addresses': server.get('addresses') or {},
        'hostId': server.get('hostId') or server.get('host_id'),
        'OS-EXT-AZ:availability_zone': server.get('OS-EXT-AZ:availability_zone') or (location and location.zone),
        'metadata': server.get('metadata') or {},
        'flavor': flavor and flavor_fields(flavor),
        'os-extended-volumes:volumes_attached': server.get('os-extended-volumes:volumes_attached') or [],
    }


def flavor_fields(flavor):
    return {'id': flavor.id, 'name': flavor.name, 'vcpus': flavor.vcpus, 'ram': flavor.ram}


def number(limit):
    """JSON has no infinity; the compute API says -1."""
    return -1 if limit is None or limit == math.inf else limit


def describe(error):
    kind = 'transient'
    if isinstance(error, ClassedError):
        kind = error.kind
    elif isinstance(error, (exceptions.NotFound, openstack.exceptions.ResourceNotFound)):
        kind = 'gone'
    elif isinstance(error, openstack.exceptions.BadRequestException):
        kind = 'config'
    elif isinstance(error, exceptions.TimeoutException):
        kind = 'timeout'
    elif isinstance(error, (TypeError, AttributeError)):
        kind = 'bug'
    return {'class': kind, 'message': f'{type(error).__name__}: {error}',
            'external_id': getattr(error, 'external_id', None)}
