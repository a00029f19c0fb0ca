"""Zuul 14.3.0's own classes in the role they have in its scheduler and executor, without the rest of Zuul.

A request goes the way it goes in production: `zuul.nodepool.Nodepool` submits it, its cache sees it complete, its
event election puts a NodesProvisionedEvent into the pipeline's queue in ZooKeeper; the nodes are then locked, used
and returned as an executor does. None of these classes is changed.
"""
import configparser
import json
import time
import types
import uuid

import zuul.lib.tracing
import zuul.model
import zuul.nodepool
import zuul.zk

from harness import wait_for

TENANT, PIPELINE, PROJECT = 'tenant', 'check', 'project'

# Requests carry a trace; this is what Zuul does where tracing is off.
zuul.lib.tracing.Tracing(configparser.ConfigParser())


class Zuul:
    def __init__(self, zookeeper, system_id='zuul-tests'):
        self.client = zuul.zk.ZooKeeperClient(
            f'127.0.0.1:{zookeeper.tls_port}', tls_cert=str(zookeeper.cert), tls_key=str(zookeeper.key),
            tls_ca=str(zookeeper.ca))
        self.client.connect()
        self.nodepool = zuul.nodepool.Nodepool(self.client, system_id, statsd=None, scheduler=True)
        self.zk = self.nodepool.zk_nodepool
        self.zk.register()
        wait_for("won: Zuul's node request election", lambda: self.nodepool.election_won)
        self._provisioned = set()

    def request(self, labels, priority=100, relative_priority=0, provider=None):
        """A node request for a job with one node a label; returns Zuul's request and the job's node set."""
        nodeset = zuul.model.NodeSet('nodeset')
        for index, label in enumerate(labels):
            nodeset.addNode(zuul.model.Node([f'node{index}'], label))
        job = types.SimpleNamespace(nodeset=nodeset, uuid=uuid.uuid4().hex, name='job')
        request = self.nodepool.requestNodes(uuid.uuid4().hex, job, TENANT, PIPELINE, provider, priority,
                                             relative_priority)
        return request, nodeset.copy()

    def revise(self, request, relative_priority):
        """As the scheduler does when the queue before an item gets shorter: on its cache's object."""
        cached = wait_for(f'in the cache: request {request.id}',
                          lambda: next((r for r in self.nodepool.getNodeRequests() if r.id == request.id), None))
        self.nodepool.reviseRequest(cached, relative_priority)
        if self.zk.getNodeRequest(request.id).relative_priority != relative_priority:
            raise AssertionError(f'the priority of request {request.id} was not revised')

    def provisioned(self):
        """The ids of the requests of whose end Zuul's scheduler would have heard."""
        queue = self.nodepool.pipeline_result_events[TENANT][PIPELINE]
        for event in queue:
            self._provisioned.add(event.request_id)
            queue.ack(event)
        return self._provisioned

    def wait(self, request, timeout=60):
        """Until the request has ended; returns it as it is then. What Zuul keeps in it must have come back to the digit:
        the ids of its trace are integers of 128 bits."""
        wait_for(f'completed: request {request.id}', lambda: request.id in self.provisioned(), timeout)
        # Zuul's own object keeps what it has sent, whatever has become of it.
        data, _ = self.client.client.get(f'/nodepool/requests/{request.id}')
        sent, back = (json.loads(json.dumps(d['requestor_data'])) for d in (request.toDict(), json.loads(data)))
        if back != sent or not sent['span_info']['trace_id']:
            raise AssertionError(f"request {request.id} came back with {back}, not {sent}")
        return self.zk.getNodeRequest(request.id, cached=True)

    def accept(self, request, nodeset):
        """Locks the nodes and deletes the request, as the scheduler's pipeline manager and executor do."""
        self.nodepool.acceptNodes(request, nodeset)

    def use(self, nodeset):
        self.nodepool.useNodeSet(nodeset, TENANT, PROJECT)

    def give_back(self, nodeset):
        self.nodepool.returnNodeSet(nodeset, types.SimpleNamespace(uuid=uuid.uuid4().hex), TENANT, PROJECT, 1)

    def node_ids(self):
        return self.zk.getNodes()

    def wait_until_empty(self, timeout=60):
        wait_for('empty: /nodepool/nodes and /nodepool/requests',
                 lambda: not self.zk.getNodes() and not self.zk.getNodeRequests(), timeout)

    def whole_build(self, labels, timeout=60, **options):
        """Request, lock, use, return; what the nodes were like while in use."""
        started = time.monotonic()
        request, nodeset = self.request(labels, **options)
        done = self.wait(request, timeout)
        if done.state != zuul.model.STATE_FULFILLED:
            raise AssertionError(f'request {request.id} for {labels} ended {done.state}')
        latency = time.monotonic() - started
        self.accept(done, nodeset)
        self.use(nodeset)
        nodes = [node.toDict() | {'provider': node.provider, 'id': node.id} for node in nodeset.getNodes()]
        self.give_back(nodeset)
        return nodes, latency

    def stop(self):
        self.nodepool.stop()
        self.client.disconnect()
