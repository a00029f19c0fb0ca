//! The task that carries out and delivers what is on its way between a session and the server.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use super::{
    server::Server,
    wire::{Arrived, Lost},
};

/// Until the session is over.
pub(super) async fn carry(server: Weak<Mutex<Server>>, session: i64, news: Arc<Notify>) {
    loop {
        let next = {
            let Some(server) = server.upgrade() else { return };
            let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(arrived) = server.sessions.get_mut(&session).and_then(|of| of.under_way.arrived()) {
                match arrived {
                    Arrived::Delivery(delivery) => delivery(true),
                    Arrived::Request(request, lost) => {
                        request(&mut server, lost != Some(Lost::Request));
                        if lost.is_some() {
                            server.suspend(session);
                        }
                    }
                }
            }
            match server.sessions.get(&session) {
                Some(of) => of.under_way.next(),
                None => return,
            }
        };
        match next {
            Some(next) => tokio::select! {
                biased;
                () = news.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            },
            None => news.notified().await,
        }
    }
}
