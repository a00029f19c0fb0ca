//! The decimal digits of a YAML 1.1 integer, whatever its base and size.

use std::fmt::Write as _;

/// More digits of another base than anybody writes; the arithmetic below is quadratic.
const MOST_DIGITS: usize = 4096;
/// Nine decimal digits.
const LIMB: u64 = 1_000_000_000;

/// What Python's `str` makes of the integer: `None` where the text is none that PyYAML reads as one, or is longer in another
/// base than anybody writes.
pub fn digits(text: &str) -> Option<String> {
    let text = text.replace('_', "");
    let (sign, body) = match text.strip_prefix('-') {
        Some(body) => ("-", body),
        None => ("", text.strip_prefix('+').unwrap_or(&text)),
    };
    let decimal = if let Some(digits) = body.strip_prefix("0b") {
        converted(digits.chars(), 2)?
    } else if let Some(digits) = body.strip_prefix("0x") {
        converted(digits.chars(), 16)?
    } else if body.contains(':') {
        of_parts(body.split(':').map(|part| part.parse().ok()), 60)?
    } else if body.len() > 1 && body.starts_with('0') {
        converted(body.chars(), 8)?
    } else if !body.is_empty() && body.bytes().all(|b| b.is_ascii_digit()) {
        body.to_owned()
    } else {
        return None;
    };
    Some(if decimal == "0" { decimal } else { format!("{sign}{decimal}") })
}

fn converted(digits: impl Iterator<Item = char>, radix: u32) -> Option<String> {
    of_parts(digits.map(|digit| digit.to_digit(radix).map(u64::from)), u64::from(radix))
}

/// From digits of any base, the first one the greatest. `None`: one of them is none, or they are too many.
fn of_parts(parts: impl Iterator<Item = Option<u64>>, base: u64) -> Option<String> {
    // Limbs of nine decimal digits, the lowest first.
    let mut limbs = vec![0];
    for (i, part) in parts.enumerate() {
        let mut carry = part.filter(|part| *part < LIMB && i < MOST_DIGITS)?;
        for limb in &mut limbs {
            let sum = *limb * base + carry;
            *limb = sum % LIMB;
            carry = sum / LIMB;
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    let mut decimal = String::new();
    for limb in limbs.iter().rev() {
        // Writing into a String does not fail.
        let _ = if decimal.is_empty() { write!(decimal, "{limb}") } else { write!(decimal, "{limb:09}") };
    }
    Some(decimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each result is what PyYAML and `str` gave.
    #[test]
    fn integers_of_any_base_and_size_have_their_decimal_digits() {
        for (text, expected) in [
            ("0", Some("0")),
            ("-0x0", Some("0")),
            ("+12", Some("12")),
            ("010", Some("8")),
            ("-1:30", Some("-90")),
            ("190:20:30", Some("685230")),
            ("340282366920938463463374607431768211455", Some("340282366920938463463374607431768211455")),
            ("0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", Some("340282366920938463463374607431768211455")),
            ("-0x1_0000_0000_0000_0000", Some("-18446744073709551616")),
            ("02000000000000000000000", Some("18446744073709551616")),
            (
                "0b1_00000000_00000000_00000000_00000000_00000000_00000000_00000000_00000000",
                Some("18446744073709551616"),
            ),
            ("ten", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(digits(text).as_deref(), expected, "{text}");
        }
    }
}
