//! Python's `str.format` for `dynamic-instance-properties`, where `request` is the only argument, and for
//! `image-name-format`.
//!
//! People write `{request.tenant_name}`, `{request.requestor_data[name]}`, sometimes with a conversion or a width. The
//! result must be what upstream's Python makes of it, including `None` for what is absent; what Python would refuse
//! is an error here, and the property is left out as upstream leaves it out.

use nodepool_common::model::{
    Json, NodeRequest, Object,
    json::{Shape, python_float},
};

/// The request's fields that are safe for templates (`nodepool 11.0.0: zk/zookeeper.py getSafeAttributes`).
pub(crate) fn safe_attributes(request: &NodeRequest) -> Object {
    Object::default()
        .with("id", &request.id)
        .with("labels", &request.node_types)
        .with("requestor", &request.requestor)
        .with_json("requestor_data", request.requestor_data.clone())
        .with("relative_priority", &request.relative_priority)
        .with("event_id", &request.event_id)
        .with("created_time", &request.created_time)
        .with("tenant_name", &request.tenant_name)
}

/// Formats a template with a request. The error says what in it cannot be used.
pub(crate) fn format(template: &str, request: &Object) -> Result<String, String> {
    fill(template, &|name| lookup(name, request))
}

/// Formats a template with what stands for its names.
pub(crate) fn fill(template: &str, value_of: &dyn Fn(&str) -> Result<Json, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        let after = &rest[at + 1..];
        if after.starts_with(brace) {
            out.push_str(brace);
            rest = &after[1..];
        } else if brace == "}" {
            return Err("single '}' in the format text".to_owned());
        } else {
            let end = after.find('}').ok_or("'{' without its '}'")?;
            out.push_str(&field(&after[..end], value_of)?);
            rest = &after[end + 1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// `name[!conversion][:spec]`.
fn field(field: &str, value_of: &dyn Fn(&str) -> Result<Json, String>) -> Result<String, String> {
    let name_end = name_end(field);
    let (name, tail) = field.split_at(name_end);
    let value = value_of(name)?.shape();
    let (conversion, spec) = match tail.strip_prefix('!') {
        Some(tail) => {
            let (conversion, spec) = tail.split_once(':').unwrap_or((tail, ""));
            (Some(conversion), spec)
        }
        None => (None, tail.strip_prefix(':').unwrap_or("")),
    };
    let (text, kind) = match conversion {
        Some("s") => (text(&value), Kind::Text),
        Some("r" | "a") => (repr(&value), Kind::Text),
        Some(other) => return Err(format!("unknown conversion {other:?} in {{{field}}}")),
        None => (text(&value), Kind::of(&value)),
    };
    pad(text, kind, spec).ok_or_else(|| format!("{spec:?} in {{{field}}} does not fit a value of that kind"))
}

/// Where the name ends: at the first `!` or `:` outside brackets.
fn name_end(field: &str) -> usize {
    let mut inside = false;
    for (at, c) in field.char_indices() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            '!' | ':' if !inside => return at,
            _ => {}
        }
    }
    field.len()
}

fn lookup(name: &str, request: &Object) -> Result<Json, String> {
    let unknown = || format!("{{{name}}} is not a field of the request");
    let path = name.strip_prefix("request").ok_or_else(|| format!("{{{name}}}: only `request` can be used"))?;
    // The attributes are those of the request; what is inside them is reached with brackets.
    let path = path.strip_prefix('.').ok_or_else(unknown)?;
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (attribute, mut path) = path.split_at(end);
    let mut value = request.get(attribute).ok_or_else(unknown)?.clone();
    while let Some(inner) = path.strip_prefix('[') {
        let (key, rest) = inner.split_once(']').ok_or_else(unknown)?;
        value = match value.shape() {
            Shape::Object(object) => object.get(key).cloned(),
            Shape::List(list) => key.parse().ok().and_then(|index: usize| list.get(index).cloned()),
            _ => None,
        }
        .ok_or_else(|| format!("{{{name}}}: there is no {key:?}"))?;
        path = rest;
    }
    if path.is_empty() { Ok(value) } else { Err(unknown()) }
}

/// What decides about alignment and which specs Python accepts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    /// Python accepts no spec for it.
    Other,
}

impl Kind {
    const fn of(value: &Shape) -> Self {
        match value {
            Shape::Text(_) => Self::Text,
            Shape::Number(_) | Shape::Bool(_) => Self::Number,
            _ => Self::Other,
        }
    }
}

/// `[[fill]align][width][.precision][s|d]`, the part of Python's language that makes sense here.
fn pad(mut text: String, kind: Kind, spec: &str) -> Option<String> {
    if spec.is_empty() {
        return Some(text);
    }
    if kind == Kind::Other {
        return None;
    }
    let chars: Vec<char> = spec.chars().collect();
    let is_align = |at: usize| chars.get(at).is_some_and(|c| matches!(c, '<' | '>' | '^'));
    let (mut fill, mut align, mut at) = (' ', if kind == Kind::Number { '>' } else { '<' }, 0);
    if is_align(1) {
        (fill, align, at) = (chars[0], chars[1], 2);
    } else if is_align(0) {
        (align, at) = (chars[0], 1);
    }
    let number = |at: &mut usize| -> Option<usize> {
        let start = *at;
        while chars.get(*at).is_some_and(char::is_ascii_digit) {
            *at += 1;
        }
        (*at > start).then(|| chars[start..*at].iter().collect::<String>().parse().ok())?
    };
    if chars.get(at) == Some(&'0') && kind == Kind::Number && at == 0 {
        fill = '0';
    }
    let width = number(&mut at).unwrap_or(0);
    if chars.get(at) == Some(&'.') {
        at += 1;
        let precision = number(&mut at).filter(|_| kind == Kind::Text)?;
        text = text.chars().take(precision).collect();
    }
    match (chars.get(at), kind) {
        (None, _) => {}
        (Some('s'), Kind::Text) | (Some('d'), Kind::Number) if at + 1 == chars.len() => {}
        _ => return None,
    }
    let missing = width.saturating_sub(text.chars().count());
    let (left, right) = match align {
        '<' => (0, missing),
        '>' => (missing, 0),
        _ => (missing / 2, missing - missing / 2),
    };
    let fill = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    Some(format!("{}{text}{}", fill(left), fill(right)))
}

/// Python's `str`.
fn text(value: &Shape) -> String {
    match value {
        Shape::Text(text) => text.clone(),
        other => repr(other),
    }
}

/// Python's `repr`.
fn repr(value: &Shape) -> String {
    match value {
        Shape::Null => "None".to_owned(),
        Shape::Bool(true) => "True".to_owned(),
        Shape::Bool(false) => "False".to_owned(),
        Shape::Number(number) => match &**number {
            "NaN" => "nan".to_owned(),
            "Infinity" => "inf".to_owned(),
            "-Infinity" => "-inf".to_owned(),
            "-0" => "0".to_owned(),
            float if float.contains(['.', 'e', 'E']) => float.parse().map_or_else(|_| number.clone(), python_float),
            _ => number.clone(),
        },
        Shape::Text(text) => {
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let mut out = String::from(quote);
            for c in text.chars() {
                match c {
                    '\\' => out.push_str("\\\\"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    c if c == quote => out.extend(['\\', c]),
                    c => out.push(c),
                }
            }
            out.push(quote);
            out
        }
        Shape::List(list) => {
            let items: Vec<_> = list.iter().map(|item| repr(&item.shape())).collect();
            format!("[{}]", items.join(", "))
        }
        Shape::Object(object) => {
            let items: Vec<_> = object
                .iter()
                .map(|(key, value)| format!("{}: {}", repr(&Shape::Text(key)), repr(&value.shape())))
                .collect();
            format!("{{{}}}", items.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Object {
        let data = br#"{"state": "requested", "node_types": ["a", "it's"], "tenant_name": "t", "relative_priority": 3,
            "created_time": 1760000000.25, "requestor_data": {"build_set_uuid": "b0", "flag": true, "n": [1, null],
            "trace_id": 214923108411236842923713493273943413583, "big": 1e16, "small": 1e-05}}"#;
        safe_attributes(&NodeRequest::read("200-0000000001".into(), data).unwrap().0)
    }

    /// Each result is what Python 3.11 printed.
    #[test]
    fn templates_read_as_in_python() {
        for (template, expected) in [
            ("{request.tenant_name}", "t"),
            ("tenant {request.tenant_name}!", "tenant t!"),
            ("{request.event_id}", "None"),
            ("{request.id}", "200-0000000001"),
            ("{request.labels}", r#"['a', "it's"]"#),
            ("{request.labels[1]}", "it's"),
            ("{request.created_time}", "1760000000.25"),
            (
                "{request.requestor_data}",
                "{'build_set_uuid': 'b0', 'flag': True, 'n': [1, None], \
                'trace_id': 214923108411236842923713493273943413583, 'big': 1e+16, 'small': 1e-05}",
            ),
            ("{request.requestor_data[trace_id]}", "214923108411236842923713493273943413583"),
            ("{request.requestor_data[build_set_uuid]}", "b0"),
            ("{request.tenant_name!r}", "'t'"),
            ("{request.event_id!s:>6}", "  None"),
            ("{request.tenant_name:*^5}", "**t**"),
            ("{request.relative_priority:03}", "003"),
            ("{request.id:.3}", "200"),
            ("{{request.tenant_name}}", "{request.tenant_name}"),
            ("", ""),
        ] {
            assert_eq!(format(template, &request()).as_deref(), Ok(expected), "{template}");
        }
    }

    /// Python refuses them too, except for the attribute of a text, whose result nobody wants.
    #[test]
    fn what_makes_no_sense_is_refused() {
        for template in [
            "{request.nope}",
            "{node.id}",
            "{}",
            "{0}",
            "{request.tenant_name",
            "tenant}",
            "{request.event_id:>6}",
            "{request.labels[7]}",
            "{request.tenant_name!x}",
            "{request.tenant_name.upper}",
            "{request.tenant_name:d}",
        ] {
            assert!(format(template, &request()).is_err(), "{template}");
        }
    }
}
