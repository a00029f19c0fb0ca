//! A connection that breaks at the worst moment: after the server has done what was asked, before it could say so; or before it
//! has heard of it.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// ZooKeeper's heartbeats carry this transaction id; they are not counted.
const PING: [u8; 4] = (-2_i32).to_be_bytes();

/// Stands before a ZooKeeper on loopback and loses answers on demand. Lives as long as the runtime it was started in.
#[derive(Debug)]
pub struct LossyProxy {
    port: u16,
    losing: Arc<Losing>,
    is_up: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Losing {
    /// The answer to that request from now on; 0: none.
    answer: AtomicUsize,
    /// The next request.
    request: AtomicBool,
}

impl LossyProxy {
    /// Starts one before the server at that port of loopback.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let losing = Arc::new(Losing::default());
        let shared = Arc::clone(&losing);
        let (is_up, state) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (shared, mut state) = (shared.clone(), state.clone());
                tokio::spawn(async move {
                    let passing = async {
                        if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await {
                            // A broken connection is what we are here for.
                            let _ = pass(client, server, &shared).await;
                        }
                    };
                    tokio::select! {
                        biased;
                        _ = state.wait_for(|is_up| !is_up) => {}
                        () = passing => {}
                    }
                });
            }
        });
        Self { port, losing, is_up }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections, and new ones at once: the server stays, but nobody reaches it.
    pub fn down(&self) {
        self.is_up.send_replace(false);
    }

    /// Ends [`Self::down`].
    pub fn up(&self) {
        self.is_up.send_replace(true);
    }

    /// The `nth` next request (from 1) is passed on and carried out; its answer is swallowed and the connection cut.
    /// 0: none.
    pub fn lose_answer(&self, nth: usize) {
        self.losing.answer.store(nth, Ordering::SeqCst);
    }

    /// The next request is swallowed, and the connection cut: it is never carried out.
    pub fn lose_request(&self) {
        self.losing.request.store(true, Ordering::SeqCst);
    }

    /// Whether the answer that was to be lost has been lost.
    pub fn has_lost(&self) -> bool {
        self.losing.answer.load(Ordering::SeqCst) == 0
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, losing: &Losing) -> std::io::Result<()> {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                let ping = asked.get(4..8) == Some(PING.as_slice());
                if !ping && losing.request.swap(false, Ordering::SeqCst) {
                    return Ok(());
                }
                server.write_all(&asked[..read]).await?;
                let counted = |now: usize| now.checked_sub(1);
                if !ping && losing.answer.fetch_update(Ordering::SeqCst, Ordering::SeqCst, counted) == Ok(1) {
                    // Whatever the answer is, it is swallowed: it has been given, that is all that counts.
                    server.readable().await?;
                    return Ok(());
                }
            }
            read = server.read(&mut answered) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                client.write_all(&answered[..read]).await?;
            }
        }
    }
}
