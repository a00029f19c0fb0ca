//! The forward protocol of Fluentd: `[tag, time, record]` in `MessagePack` over TCP.
//!
//! A thread of its own connects and writes; the log only puts records into a bounded queue and never waits. When the
//! queue is full, or the process ends while nobody listens, records are lost: the console has them. One line on
//! stderr tells when forwarding fails and when it works again.

use std::{
    io::{self, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};

use super::record::Record;

/// Records that wait for a connection: some minutes of a busy launcher.
const QUEUE: usize = 10_000;
const TIMEOUT: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the end of the process may wait for the queue.
const FLUSH: Duration = Duration::from_secs(2);

/// Sends records to one Fluentd.
#[derive(Debug)]
pub struct Forwarder {
    queue: SyncSender<Message>,
    closing: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    tag: String,
    nanoseconds: bool,
}

#[derive(Debug)]
enum Message {
    Record(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Forwarder {
    /// Starts the thread; the connection follows. The error is the system's refusal of a thread.
    pub fn start(host: String, port: u16, tag: String, nanoseconds: bool) -> io::Result<Self> {
        let (queue, records) = sync_channel(QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(AtomicU64::new(0));
        let link = Link { host, port, stream: None, closing: closing.clone(), lost: lost.clone(), complained: false };
        thread::Builder::new().name("fluent".to_owned()).spawn(move || link.run(&records))?;
        Ok(Self { queue, closing, lost, tag, nanoseconds })
    }

    /// Queues a record.
    pub fn send(&self, record: &Record, document: &Map<String, Value>) {
        let message = encode(&self.tag, record, self.nanoseconds, document);
        if self.queue.try_send(Message::Record(message)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits a little for the queue to empty; unreachable servers are no longer retried.
    pub fn flush(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH);
        }
        self.closing.store(false, Ordering::Relaxed);
    }
}

/// The thread's side.
struct Link {
    host: String,
    port: u16,
    stream: Option<TcpStream>,
    closing: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    complained: bool,
}

impl Link {
    fn run(mut self, records: &Receiver<Message>) {
        loop {
            match records.recv_timeout(Duration::from_secs(60)) {
                Ok(Message::Record(bytes)) => self.deliver(&bytes),
                Ok(Message::Flush(done)) => {
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Writes one record, as often as it takes; at the end of the process once.
    fn deliver(&mut self, bytes: &[u8]) {
        let mut pause = Duration::from_millis(100);
        loop {
            match self.write(bytes) {
                Ok(()) => {
                    let lost = self.lost.swap(0, Ordering::Relaxed);
                    if self.complained || lost > 0 {
                        self.complained = false;
                        eprintln!("nodepool: log forwarding to {}:{} works again, {lost} lost", self.host, self.port);
                    }
                    return;
                }
                Err(error) => {
                    self.stream = None;
                    if !self.complained {
                        self.complained = true;
                        eprintln!(
                            "nodepool: forwarding logs to fluentd at {}:{}: {error}; up to {QUEUE} records wait for it",
                            self.host, self.port
                        );
                    }
                    let until = Instant::now() + pause;
                    while Instant::now() < until {
                        if self.closing.load(Ordering::Relaxed) {
                            return;
                        }
                        thread::sleep(Duration::from_millis(20));
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A server that has gone is noticed by its end of stream, before a record is written into the void.
        if self.stream.as_ref().is_some_and(has_ended) {
            self.stream = None;
        }
        if self.stream.is_none() {
            self.stream = Some(connect(&self.host, self.port)?);
        }
        match &mut self.stream {
            Some(stream) => stream.write_all(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                stream.set_write_timeout(Some(TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn has_ended(stream: &TcpStream) -> bool {
    let ended = stream.set_nonblocking(true).is_err()
        || match stream.peek(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
    ended || stream.set_nonblocking(false).is_err()
}

/// `[tag, time, record]`.
fn encode(tag: &str, record: &Record, nanoseconds: bool, document: &Map<String, Value>) -> Vec<u8> {
    let seconds = u32::try_from(record.created.timestamp()).unwrap_or(u32::MAX);
    let mut out = vec![0x93];
    text(&mut out, tag);
    if nanoseconds {
        // Extension type 0 of 8 bytes: EventTime.
        out.extend([0xd7, 0x00]);
        out.extend(seconds.to_be_bytes());
        out.extend(record.created.timestamp_subsec_nanos().min(999_999_999).to_be_bytes());
    } else {
        out.push(0xce);
        out.extend(seconds.to_be_bytes());
    }
    map(&mut out, document);
    out
}

#[allow(clippy::cast_possible_truncation)] // the arms' ranges see to it
fn length(out: &mut Vec<u8>, length: usize, fix: u8, fix_below: usize, long: [u8; 2]) {
    match length {
        n if n < fix_below => out.push(fix | n as u8),
        n if n <= 0xffff => {
            out.push(long[0]);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(long[1]);
            out.extend((n as u32).to_be_bytes());
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    length(out, text.len(), 0xa0, 32, [0xda, 0xdb]);
    out.extend(text.as_bytes());
}

fn map(out: &mut Vec<u8>, map: &Map<String, Value>) {
    length(out, map.len(), 0x80, 16, [0xde, 0xdf]);
    for (key, item) in map {
        text(out, key);
        value(out, item);
    }
}

fn value(out: &mut Vec<u8>, item: &Value) {
    match item {
        Value::Null => out.push(0xc0),
        Value::Bool(yes) => out.push(if *yes { 0xc3 } else { 0xc2 }),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => {
                out.push(0xd3);
                out.extend(integer.to_be_bytes());
            }
            (None, float) => {
                out.push(0xcb);
                out.extend(float.unwrap_or_default().to_be_bytes());
            }
        },
        Value::String(string) => text(out, string),
        Value::Array(items) => {
            length(out, items.len(), 0x90, 16, [0xdc, 0xdd]);
            for item in items {
                value(out, item);
            }
        }
        Value::Object(object) => map(out, object),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener};

    use chrono::{Local, TimeZone};
    use serde_json::json;

    use super::{super::record::Level, *};

    fn record() -> Record {
        Record {
            created: Local.timestamp_opt(1_760_000_000, 250_000_000).unwrap(),
            level: Level::INFO,
            logger: "nodepool.x".to_owned(),
            message: "hello".to_owned(),
            annotations: super::super::record::Annotations::default(),
            fields: Vec::new(),
            pathname: String::new(),
            lineno: 0,
            module: String::new(),
        }
    }

    fn document(text: &str) -> Map<String, Value> {
        json!({"log": text}).as_object().unwrap().clone()
    }

    #[test]
    fn a_record_is_encoded_as_the_forward_protocol_wants_it() {
        let bytes = encode("np.l", &record(), true, &document("hi"));
        let mut expected = vec![0x93, 0xa4];
        expected.extend(b"np.l");
        expected.extend([0xd7, 0x00]);
        expected.extend(1_760_000_000_u32.to_be_bytes());
        expected.extend(250_000_000_u32.to_be_bytes());
        expected.extend([0x81, 0xa3]);
        expected.extend(b"log");
        expected.push(0xa2);
        expected.extend(b"hi");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn records_that_were_logged_while_nobody_listened_arrive_later() {
        let port = nodepool_testing::free_port();
        let forwarder = Forwarder::start("127.0.0.1".to_owned(), port, "np.l".to_owned(), false).unwrap();
        forwarder.send(&record(), &document("first"));
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut first = vec![0; encode("np.l", &record(), false, &document("first")).len()];
        stream.read_exact(&mut first).unwrap();
        assert!(first.ends_with(b"first"));

        // The server goes away and comes back.
        drop(stream);
        // The end of the stream reaches the sender before its next record, since both are on loopback; should it not,
        // that one record is lost, so several are sent.
        let (accepted, wait) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).unwrap();
            accepted.send(byte[0]).unwrap();
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            forwarder.send(&record(), &document("again"));
            if let Ok(byte) = wait.recv_timeout(Duration::from_millis(50)) {
                assert_eq!(byte, 0x93);
                break;
            }
            assert!(Instant::now() < deadline, "the forwarder did not connect again");
        }
    }
}
