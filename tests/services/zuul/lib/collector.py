"""Takes spans as an OpenTelemetry collector does (OTLP over HTTP, protobuf), and appends each to a file as a line of JSON.

  collector.py PORT FILE

A real collector also takes gRPC and passes everything on; this one is there to be read by tests.
"""
import http.server
import json
import sys

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

port, file = int(sys.argv[1]), sys.argv[2]


def plain(attributes):
    """Those with one value; lists are left out, and what has none."""
    kinds = [(a.key, a.value, a.value.WhichOneof('value')) for a in attributes]
    return {key: getattr(value, kind) for key, value, kind in kinds if kind in ('string_value', 'int_value', 'double_value', 'bool_value')}


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_POST(self):
        request = ExportTraceServiceRequest()
        request.ParseFromString(self.rfile.read(int(self.headers['content-length'])))
        with open(file, 'a') as out:
            for of_resource in request.resource_spans:
                service = plain(of_resource.resource.attributes).get('service.name')
                for span in (span for scope in of_resource.scope_spans for span in scope.spans):
                    line = dict(service=service, name=span.name, trace=span.trace_id.hex(), id=span.span_id.hex(),
                                parent=span.parent_span_id.hex(), start=span.start_time_unix_nano, end=span.end_time_unix_nano,
                                error=span.status.message if span.status.code == 2 else None,
                                attributes=plain(span.attributes))
                    out.write(json.dumps(line) + '\n')
        body = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header('content-type', 'application/x-protobuf')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send_response(200)
        self.send_header('content-length', '0')
        self.end_headers()

    def log_message(self, *_):
        pass


open(file, 'w').close()
http.server.ThreadingHTTPServer(('127.0.0.1', port), Collector).serve_forever()
