//! Spans for OpenTelemetry: how long each step took that was made for a request, as a part of Zuul's own trace.
//!
//! Zuul writes the context of its span into the request's record (`requestor_data.span_info`, [`zuul`]). What a launcher does for
//! that request is below it; what it does for nobody (nodes for the stock) begins a trace of its own.
//!
//! A [`Tracer`] makes [`Span`]s and sends those that have ended to whoever exports them, over a bounded channel: where that does not keep
//! up, spans are dropped and counted, and nobody waits. Without an exporter it is off, and a span costs nothing. Who exports is not known
//! here (`drivers/src/otlp.rs`).
//!
//! The span in which something happens deep below is known to its task ([`within`]): so calls of clouds become spans where they are counted
//! ([`call`]), and no driver has to pass anything on. What a driver does in a task of its own, for all who wait for it, belongs to nobody.
//!
//! Times are those of the clock at the beginning and the monotonic duration since: a clock that is set makes no span negative.

mod zuul;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    model::{Timestamp, Uptime},
    sys::Ambient,
};

/// So many spans may wait to be exported.
const WAITING: usize = 4096;

tokio::task_local! {
    /// The span in which a task works.
    static CURRENT: (Tracer, SpanContext);
}

/// Which span of which trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace; not 0.
    pub trace: u128,
    /// The span; not 0.
    pub span: u64,
    /// Whether the trace is exported. One that its root has left out is left out by all.
    pub is_sampled: bool,
}

/// The parent of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Which.
    pub context: SpanContext,
    /// Whether another process has it.
    pub is_remote: bool,
}

/// What an attribute of a span says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Several texts.
    Texts(Vec<String>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// What was done.
    pub name: &'static str,
    /// Which span it is.
    pub context: SpanContext,
    /// The span that it is a part of; `None`: it is the first of its trace.
    pub parent: Option<Parent>,
    /// Whether it is a call of another service.
    pub is_call: bool,
    /// When it began, in seconds since the epoch.
    pub start: Timestamp,
    /// When it ended; not before that.
    pub end: Timestamp,
    /// What else is known of it. Names as OpenTelemetry has them, else below `nodepool.`.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Makes spans. Cheap to clone; by default it is off.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    ambient: Ambient,
    out: mpsc::Sender<Ended>,
    dropped: AtomicU64,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "Tracer (on)" } else { "Tracer (off)" })
    }
}

impl Tracer {
    /// One that is on, and what it brings.
    pub fn new(ambient: Ambient) -> (Self, mpsc::Receiver<Ended>) {
        let (out, ended) = mpsc::channel(WAITING);
        (Self(Some(Arc::new(Inner { ambient, out, dropped: AtomicU64::new(0) }))), ended)
    }

    /// Whether spans are exported.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// How many spans were dropped since the last call, as nobody exported them in time.
    pub fn take_dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.dropped.swap(0, Ordering::Relaxed))
    }

    /// Begins a span, below another one or as the first of a trace.
    pub fn begin(&self, name: &'static str, parent: Option<Parent>) -> Span {
        self.begin_at(name, parent, None)
    }

    /// The same with another beginning than now: one that a record tells.
    pub fn begin_at(&self, name: &'static str, parent: Option<Parent>, start: Option<Timestamp>) -> Span {
        let Some(inner) = self.0.as_ref().filter(|_| parent.is_none_or(|parent| parent.context.is_sampled)) else {
            return Span(None);
        };
        let now = inner.ambient.clock.now();
        let begun = if start.is_none() { Some(inner.ambient.clock.uptime()) } else { None };
        let start = start.map_or(now, |start| start.min(now));
        Span(Some(Box::new(Open {
            tracer: self.clone(),
            begun,
            span: Ended {
                name,
                context: inner.new_context(parent),
                parent,
                is_call: false,
                start,
                end: start,
                attributes: Vec::new(),
                error: None,
            },
        })))
    }

    fn send(&self, ended: Ended) {
        if let Some(inner) = &self.0
            && inner.out.try_send(ended).is_err()
        {
            inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Inner {
    fn new_context(&self, parent: Option<Parent>) -> SpanContext {
        let entropy = &self.ambient.entropy;
        // Neither may be 0, which is none.
        let trace = parent.map_or_else(|| entropy.uuid().as_u128(), |parent| parent.context.trace);
        SpanContext { trace, span: entropy.seed().max(1), is_sampled: true }
    }
}

/// A span that is under way, if it is exported; it ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    tracer: Tracer,
    /// `None`: it began at a time that a record tells.
    begun: Option<Uptime>,
    span: Ended,
}

impl Span {
    /// What is a part of it has this as its parent; `None`: it is not exported.
    pub fn parent(&self) -> Option<Parent> {
        self.0.as_ref().map(|open| Parent { context: open.span.context, is_remote: false })
    }

    /// Begins a part of it; where it is not exported, that is not either.
    #[must_use]
    pub fn part(&self, name: &'static str) -> Self {
        match &self.0 {
            Some(open) => open.tracer.begin(name, self.parent()),
            None => Self(None),
        }
    }

    /// The same with what is to be known of it.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// Puts down what is known of it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.0 {
            open.span.attributes.push((name, value.into()));
        }
    }

    /// It has failed.
    pub fn fail(&mut self, why: impl fmt::Display) {
        if let Some(open) = &mut self.0 {
            open.span.error = Some(why.to_string());
        }
    }

    /// Its part from its beginning up to now is another span.
    pub fn part_until_now(&self, name: &'static str) {
        if let Some(open) = &self.0 {
            drop(open.tracer.begin_at(name, self.parent(), Some(open.span.start)));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(inner) = &self.tracer.0 else { return };
        let clock = &inner.ambient.clock;
        let end = match self.begun {
            Some(begun) => self.span.start + (clock.uptime() - begun),
            None => clock.now(),
        };
        self.span.end = end.max(self.span.start);
        let ended = std::mem::replace(
            &mut self.span,
            Ended {
                name: "",
                context: SpanContext { trace: 0, span: 0, is_sampled: false },
                parent: None,
                is_call: false,
                start: 0.0,
                end: 0.0,
                attributes: Vec::new(),
                error: None,
            },
        );
        self.tracer.send(ended);
    }
}

/// Does something as a part of a span: what is called meanwhile, in this task, is below it.
pub async fn within<F: Future>(span: &Span, future: F) -> F::Output {
    match &span.0 {
        Some(open) => CURRENT.scope((open.tracer.clone(), open.span.context), future).await,
        None => future.await,
    }
}

/// Begins a part of the span in which this task works; it is not exported where there is none.
pub fn part(name: &'static str) -> Span {
    let part = |(tracer, context): &(Tracer, SpanContext)| {
        tracer.begin(name, Some(Parent { context: *context, is_remote: false }))
    };
    CURRENT.try_with(part).unwrap_or_default()
}

/// A call of another service that has just ended is a part of the span in which this task works.
pub fn call(name: &'static str, service: &str, took: Duration, error: Option<&str>) {
    // Outside of any span: it belongs to nobody.
    let _ = CURRENT.try_with(|(tracer, parent)| {
        let Some(inner) = &tracer.0 else { return };
        let parent = Parent { context: *parent, is_remote: false };
        let end = inner.ambient.clock.now();
        tracer.send(Ended {
            name,
            context: inner.new_context(Some(parent)),
            parent: Some(parent),
            is_call: true,
            start: end - took.as_secs_f64(),
            end,
            attributes: vec![("nodepool.provider", service.into())],
            error: error.map(str::to_owned),
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{clock::Simulated, entropy::Entropy};

    fn tracer() -> (Tracer, mpsc::Receiver<Ended>) {
        let clock = Simulated::starting_at(1_760_000_000.0).clock();
        Tracer::new(Ambient { clock, entropy: Entropy::seeded(1) })
    }

    fn all(ended: &mut mpsc::Receiver<Ended>) -> Vec<Ended> {
        std::iter::from_fn(|| ended.try_recv().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_in_a_span_is_below_it_and_has_its_times() {
        let (tracer, mut ended) = tracer();
        let of_zuul = SpanContext { trace: 7, span: 8, is_sampled: true };
        let parent = Some(Parent { context: of_zuul, is_remote: true });
        let request = tracer.begin_at("NodeRequest", parent, Some(1_759_999_990.0)).with("nodepool.request", "100-1");
        request.part_until_now("Wait");
        let mut launch = request.part("Launch");
        tokio::time::sleep(Duration::from_secs(3)).await;
        within(&launch, async { call("create_server", "p", Duration::from_secs(2), Some("quota")) }).await;
        call("list", "p", Duration::from_secs(2), None);
        launch.fail("no quota");
        drop(launch);
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(request);

        let spans = all(&mut ended);
        let names: Vec<_> = spans.iter().map(|span| span.name).collect();
        assert_eq!(names, ["Wait", "create_server", "Launch", "NodeRequest"], "a call of nobody is in no trace");
        let [wait, create, launch, request] = &spans[..] else { panic!("{spans:?}") };
        assert!(spans.iter().all(|span| span.context.trace == 7 && span.context.is_sampled));
        assert_eq!(request.parent, parent);
        for (part, of) in [(wait, request), (launch, request), (create, launch)] {
            assert_eq!(part.parent, Some(Parent { context: of.context, is_remote: false }), "{part:?}");
        }
        let times = |span: &Ended| (span.start - 1_760_000_000.0, span.end - 1_760_000_000.0);
        assert_eq!(times(wait), (-10.0, 0.0));
        assert_eq!(times(create), (1.0, 3.0));
        assert_eq!(times(launch), (0.0, 3.0));
        assert_eq!(times(request), (-10.0, 4.0));
        assert_eq!(
            (create.is_call, create.error.as_deref(), launch.error.as_deref()),
            (true, Some("quota"), Some("no quota"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_exported_where_nobody_asks_for_it_or_the_root_is_left_out() {
        let off = Tracer::default().begin("NodeRequest", None);
        assert!(off.parent().is_none() && off.part("Launch").parent().is_none());
        let (tracer, mut ended) = tracer();
        let left_out = SpanContext { trace: 7, span: 8, is_sampled: false };
        let span = tracer.begin("NodeRequest", Some(Parent { context: left_out, is_remote: true }));
        within(&span, async { call("create_server", "p", Duration::ZERO, None) }).await;
        drop(span.part("Launch"));
        drop(span);
        assert_eq!(all(&mut ended), []);
        // Without a parent it is a trace of its own.
        drop(tracer.begin("NodeRequest", None));
        let [own] = &all(&mut ended)[..] else { panic!("one span") };
        assert!(own.parent.is_none() && own.context.trace != 0 && own.context.span != 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_dropped_and_counted() {
        let (tracer, mut ended) = tracer();
        for _ in 0..WAITING + 3 {
            drop(tracer.begin("NodeRequest", None));
        }
        assert_eq!((tracer.take_dropped(), tracer.take_dropped()), (3, 0));
        assert_eq!(all(&mut ended).len(), WAITING);
    }
}
