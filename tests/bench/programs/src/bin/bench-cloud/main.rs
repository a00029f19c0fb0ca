//! An OpenStack as far as launchers need it: Keystone v3, Nova 2.1 to 2.96, Glance v2, Neutron v2.0 and Cinder v3 in one
//! process on one port, everything in memory, on one thread. Paths begin with /identity, /compute, /image, /network and
//! /volume; what the benchmark itself asks is below /_bench (`bench.rs`).
//!
//! `--listen ADDRESS:PORT [--boot-delay S] [--boot-jitter S] [--delete-delay S] [--latency-ms MS]
//! [--create-latency-ms MS] [--list-us-per-server US] [--fail-every N] [--max-instances N] [--page N]`; see `Settings`.

mod bench;
mod compute;
mod others;
mod reply;
mod servers;

use std::cell::RefCell;
use std::convert::Infallible;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nodepool_bench::arguments::Arguments;
use nodepool_bench::numbers::float;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use reply::{Call, Reply, segments};
use servers::Settings;

type Shared = Rc<RefCell<servers::Cloud>>;

/// What anybody may ask without a token: lists of versions, and a token.
fn is_open(path: &[&str]) -> bool {
    matches!(path, [] | [_] | [_, "v3" | "v2.1" | "v2" | "v2.0"] | ["identity", "v3", "auth", "tokens"])
}

async fn answer(cloud: &Shared, request: Request<Incoming>) -> Reply {
    let authenticated = request.headers().contains_key("x-auth-token");
    let path = segments(request.uri().path());
    let call = Call::new(&request);
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if path.first() == Some(&"_bench") {
        return bench::answer(&mut cloud.borrow_mut(), &call, &path[1..], &body);
    }
    let latency = {
        let mut cloud = cloud.borrow_mut();
        cloud.count(&call.method, &path);
        if is_open(&path) {
            0.0
        } else if authenticated {
            let settings = &cloud.settings;
            settings.latency
                + match (call.method.as_str(), path.as_slice()) {
                    ("POST", ["compute", "v2.1", "servers"]) => settings.create_latency,
                    (_, ["compute", "v2.1", "servers", "detail"]) => {
                        settings.list_us_per_server * 1e-6 * float(cloud.servers())
                    }
                    _ => 0.0,
                }
        } else {
            let message = "The request you have made requires authentication.";
            return Reply::new(401, &json!({"error": {"code": 401, "title": "Unauthorized", "message": message}}));
        }
    };
    if latency > 0.0 {
        tokio::time::sleep(Duration::from_secs_f64(latency)).await;
    }
    let mut cloud = cloud.borrow_mut();
    match path.split_first() {
        Some((&"identity", rest)) => others::identity(&cloud, &call, rest),
        Some((&"compute", rest)) => compute::answer(&mut cloud, &call, rest, &body),
        Some((&"image", rest)) => others::image(&cloud, &call, rest),
        Some((&"network", rest)) => others::network(&cloud, &call, rest),
        Some((&"volume", rest)) => others::volume(&cloud, &call, rest),
        _ => Reply::not_found("page"),
    }
}

async fn serve(cloud: Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let head = request.method() == Method::HEAD;
    let version = request.headers().get("openstack-api-version").cloned();
    let reply = answer(&cloud, request).await;
    cloud.borrow_mut().bytes_out += reply.body.len();
    let mut response = Response::new(Full::new(if head { Bytes::new() } else { Bytes::from(reply.body) }));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("x-openstack-request-id", HeaderValue::from_static("req-be0c0000-0000-4000-8000-000000000000"));
    if let Some(version) = version {
        headers.insert("openstack-api-version", version);
    }
    for (name, value) in reply.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    Ok(response)
}

async fn run() -> Result<(), String> {
    let names = ["--listen", "--boot-delay", "--boot-jitter", "--delete-delay", "--latency-ms", "--create-latency-ms"];
    let names = [&names[..], &["--list-us-per-server", "--fail-every", "--max-instances", "--page"]].concat();
    let a = Arguments::read(&names, &[])?;
    let listen = a.text("--listen").ok_or("--listen ADDRESS:PORT is missing")?;
    let settings = Settings {
        boot_delay: a.number("--boot-delay", 0.0)?,
        boot_jitter: a.number("--boot-jitter", 0.0)?,
        delete_delay: a.number("--delete-delay", 0.0)?,
        latency: a.number("--latency-ms", 0.0)? / 1e3,
        create_latency: a.number("--create-latency-ms", 0.0)? / 1e3,
        list_us_per_server: a.number("--list-us-per-server", 0.0)?,
        fail_every: a.number("--fail-every", 0)?,
        max_instances: a.number("--max-instances", -1)?,
        page: a.number("--page", 1000)?,
    };
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|e| format!("{listen}: {e}"))?;
    let cloud: Shared = Rc::new(RefCell::new(servers::Cloud::new(settings, format!("http://{listen}"))));
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let cloud = cloud.clone();
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| serve(cloud.clone(), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .pipeline_flush(true)
                        .serve_connection(TokioIo::new(stream), service);
                    // A client that is gone is no error of ours.
                    let _ = connection.await;
                });
            }
        }
    }
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|e| e.to_string()).and_then(|rt| LocalSet::new().block_on(&rt, run()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-cloud: {e}");
            ExitCode::FAILURE
        }
    }
}
