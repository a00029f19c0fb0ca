//! The floor under any launcher: does, for N requests of one node each, just those ZooKeeper writes (and the reads that
//! locks and watches need) that Zuul and a launcher make one by one, each lifecycle in order, many lifecycles at a time,
//! pipelined over two sessions (one Zuul's, one the launcher's). No cloud, no decisions. Prints one JSON object.
//!
//! `--zk HOST:PORT [--tls-ca F --tls-cert F --tls-key F [--tls-name NAME]] [--zuul-zk HOST:PORT] [--requests N]
//! [--concurrency N] [--root PATH] [--no-reads]`; `--zuul-zk`: plain, for Zuul's session.

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use nodepool_bench::arguments::{Arguments, ZOOKEEPER};
use nodepool_bench::numbers::{float, round, spread};
use nodepool_bench::zk::{EPHEMERAL, Error, SEQUENCE, Zk};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, spawn_local};

async fn lifecycle(zuul: &Zk, launcher: &Zk, root: &str, i: usize, reads: bool) -> Result<(), Error> {
    let request = [b'r'; 700];
    let node = [b'n'; 1200];
    let contender = format!("{i:032x}__lock__");
    // Zuul: submit.
    let request_path = zuul.create(&format!("{root}/nodepool/requests/100-"), &request, SEQUENCE).await?;
    let id = request_path.rsplit('/').next().unwrap_or_default();
    if reads {
        zuul.get(&request_path, true).await?;
        launcher.get(&request_path, true).await?;
    }
    // Launcher: lock the request, pending.
    let request_locks = format!("{root}/nodepool/requests-lock/{id}");
    launcher.create(&request_locks, b"", 0).await?;
    let request_lock = launcher.create(&format!("{request_locks}/{contender}"), b"", EPHEMERAL | SEQUENCE).await?;
    if reads {
        launcher.children(&request_locks).await?;
    }
    launcher.set(&request_path, &request).await?;
    // The node: create, lock, building, external id, ready; fulfilled, unlock.
    let path = launcher.create(&format!("{root}/nodepool/nodes/"), &node, SEQUENCE).await?;
    let locks = format!("{path}/lock");
    launcher.create(&locks, b"", 0).await?;
    let lock = launcher.create(&format!("{locks}/{contender}"), b"", EPHEMERAL | SEQUENCE).await?;
    launcher.set(&path, &node).await?;
    launcher.set(&path, &node).await?;
    launcher.set(&path, &node).await?;
    launcher.set(&request_path, &request).await?;
    launcher.delete(&lock).await?;
    launcher.delete(&request_lock).await?;
    launcher.delete(&request_locks).await?;
    // Zuul: lock, take the request away, use, return.
    if reads {
        zuul.get(&request_path, false).await?;
        zuul.get(&path, false).await?;
    }
    let lock = zuul.create(&format!("{locks}/{contender}"), b"", EPHEMERAL | SEQUENCE).await?;
    if reads {
        zuul.children(&locks).await?;
    }
    zuul.delete(&request_path).await?;
    zuul.set(&path, &node).await?;
    zuul.set(&path, &node).await?;
    zuul.delete(&lock).await?;
    // Launcher: lock, deleting, gone.
    if reads {
        launcher.get(&path, false).await?;
    }
    let lock = launcher.create(&format!("{locks}/{contender}"), b"", EPHEMERAL | SEQUENCE).await?;
    launcher.set(&path, &node).await?;
    launcher.delete(&lock).await?;
    launcher.delete(&locks).await?;
    launcher.delete(&path).await
}

async fn run() -> Result<Value, String> {
    let names = [&ZOOKEEPER[..], &["--zuul-zk", "--requests", "--concurrency", "--root"]].concat();
    let arguments = Arguments::read(&names, &["--no-reads"])?;
    let (hosts, tls) = arguments.zookeeper()?;
    let requests: usize = arguments.number("--requests", 2000)?;
    let concurrency: usize = arguments.number("--concurrency", 200)?;
    let root = arguments.text("--root").unwrap_or_default();
    let reads = !arguments.flag("--no-reads");
    let zuul = match arguments.text("--zuul-zk") {
        Some(plain) => Zk::connect(plain, None).await?,
        None => Zk::connect(hosts, tls.as_ref()).await?,
    };
    let launcher = Zk::connect(hosts, tls.as_ref()).await?;
    for path in ["/nodepool/requests", "/nodepool/requests-lock", "/nodepool/nodes"] {
        launcher.ensure(&format!("{root}{path}")).await.map_err(|e| format!("{root}{path}: {e}"))?;
    }

    let (writes, reads_before) = (launcher.writes(), launcher.reads());
    let slots = Arc::new(Semaphore::new(concurrency));
    let lengths = Rc::new(RefCell::new(vec![]));
    let began = Instant::now();
    let mut lifecycles = vec![];
    for i in 0..requests {
        let permit = slots.clone().acquire_owned().await.map_err(|e| e.to_string())?;
        let (zuul, launcher, lengths, root) = (zuul.clone(), launcher.clone(), lengths.clone(), root.to_string());
        lifecycles.push(spawn_local(async move {
            let began = Instant::now();
            lifecycle(&zuul, &launcher, &root, i, reads).await.map_err(|e| format!("lifecycle {i}: {e}"))?;
            lengths.borrow_mut().push(began.elapsed().as_secs_f64());
            drop(permit);
            Ok::<(), String>(())
        }));
    }
    for lifecycle in lifecycles {
        lifecycle.await.map_err(|e| e.to_string())??;
    }
    let seconds = began.elapsed().as_secs_f64();
    let per_request = |n: u64| u32::try_from(n).map(|n| round(f64::from(n) / float(requests), 1)).ok();
    let writes = launcher.writes() - writes + zuul.writes();
    let reads = launcher.reads() - reads_before + zuul.reads();
    zuul.close().await;
    launcher.close().await;
    Ok(json!({
        "requests": requests, "concurrency": concurrency, "seconds": round(seconds, 3),
        "requests_per_s": round(float(requests) / seconds, 1),
        "writes_per_request": per_request(writes), "reads_per_request": per_request(reads),
        "lifecycle_s": spread(lengths.take()),
    }))
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let out = runtime.map_err(|e| e.to_string()).and_then(|rt| LocalSet::new().block_on(&rt, run()));
    match out {
        Ok(out) => {
            println!("{out}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("zk-floor: {e}");
            ExitCode::FAILURE
        }
    }
}
