//! The context of a span as Zuul has it in records (`zuul 14.3: lib/tracing.py getSpanContext`, `getSpanInfo`): `trace_id`, `span_id` and
//! `trace_flags` as decimal numbers. An id of a trace has 128 bits.

use super::{Parent, SpanContext};
use crate::model::{Json, NodeRequest};

/// Of `trace_flags`: the trace is exported.
const SAMPLED: u8 = 1;

impl Parent {
    /// Zuul's span for a request; `None`: it has none, as where Zuul's tracing is off.
    pub fn of_request(request: &NodeRequest) -> Option<Self> {
        let data = request.requestor_data.as_ref()?.object()?;
        let info = data.get("span_info")?.object()?;
        let number = |name: &str| info.get(name).map(Json::as_str);
        let context = SpanContext {
            trace: number("trace_id")?.parse().ok().filter(|id| *id != 0)?,
            span: number("span_id")?.parse().ok().filter(|id| *id != 0)?,
            is_sampled: number("trace_flags")?.parse::<u8>().ok()? & SAMPLED != 0,
        };
        Some(Self { context, is_remote: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(data: &str) -> Option<Parent> {
        let record = format!(r#"{{"state": "requested", "requestor_data": {data}}}"#);
        Parent::of_request(&NodeRequest::read("100-0000000001".into(), record.as_bytes()).unwrap().0)
    }

    #[test]
    fn zuuls_span_is_read_in_full_and_anything_else_is_none() {
        let whole = r#"{"span_info": {"trace_id": 299999999999999999999999999999999999999, "span_id": 18000000000000000000, "trace_flags": 1}}"#;
        let context = parent(whole).unwrap().context;
        assert_eq!(context.trace, 299_999_999_999_999_999_999_999_999_999_999_999_999);
        assert_eq!(context.span, 18_000_000_000_000_000_000);
        assert!(context.is_sampled && parent(whole).unwrap().is_remote);
        let left_out = whole.replace("\"trace_flags\": 1", "\"trace_flags\": 0");
        assert!(!parent(&left_out).unwrap().context.is_sampled);
        for none in [
            "null",
            "{}",
            "[]",
            r#"{"span_info": null}"#,
            r#"{"span_info": 7}"#,
            r#"{"span_info": {"trace_id": -1, "span_id": 1, "trace_flags": 1}}"#,
            r#"{"span_info": {"trace_id": 1, "span_id": 1.5, "trace_flags": 1}}"#,
            r#"{"span_info": {"trace_id": "1", "span_id": 1, "trace_flags": 1}}"#,
            r#"{"span_info": {"trace_id": 1, "span_id": 0, "trace_flags": 1}}"#,
            r#"{"span_info": {"trace_id": 1, "span_id": 1}}"#,
        ] {
            assert_eq!(parent(none), None, "{none}");
        }
    }
}
