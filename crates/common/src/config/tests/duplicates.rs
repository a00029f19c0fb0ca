//! Keys that stand twice.

use super::{SMALL, check, check_errors, lines, load};

/// That config-validate refuses it with these words, and that the daemons warn of it.
fn refused(text: &str, begin: &str, words: &str) {
    let errors = check_errors(text);
    assert!(errors.starts_with(begin) && errors.contains(words) && errors.lines().count() == 1, "{text}: {errors}");
    let warnings = lines(&load(text).warnings);
    assert!(warnings.contains(words), "{warnings}");
}

#[test]
fn a_list_that_stands_twice_is_an_error_where_something_with_a_name_is_lost() {
    refused(
        &format!("{SMALL}providers: [{{name: other, cloud: c}}]\n"),
        "main:21:1: ",
        "the key `providers` stands twice in one mapping; this one counts, and the 1 item of the first is ignored (`cloud`) (the \
         first is at main:7:1; write both as one)",
    );
    refused(
        "labels: [{name: a}, {name: b}]\nlabels: [{name: b}]\n",
        "main:2:1: ",
        "the 2 items of the first are ignored (`a`, `b`)",
    );
    let many = check_errors("labels: [{name: a}, {name: b}, {name: c}, {name: d}, {name: e}, {name: f}]\nlabels: []\n");
    assert!(many.contains("the 6 items of the first are ignored (`a`, `b`, `c`, `d`, `e`, others)"), "{many}");
    for (fine, told) in [
        ("labels: []\nlabels: [{name: a}]\n", "this one counts (the first is at main:1:1; leave one of the two out)"),
        ("labels: [{name: a}]\nlabels: [{name: a}]\n", "the 1 item of the first is ignored (`a`)"),
        (
            "webapp: {port: 5}\nwebapp: {port: 6}\n",
            "this one counts (the first is at main:1:1; leave one of the two out)",
        ),
        ("elements-dir: a\nelements-dir: b\n", "this one counts (the first"),
    ] {
        assert!(check(fine).contains(told), "{}", check(fine));
    }
}

#[test]
fn a_name_that_stands_twice_in_one_item_is_an_item_without_its_dash() {
    refused(
        "labels:\n- name: a\n  min-ready: 0\n  name: b\n",
        "main:4:3: ",
        "the key `name` stands twice in one item, so that there is no `a` (write `- name: b` if another item begins here; else",
    );
    refused(
        "zookeeper-servers:\n- host: a\n  host: b\n",
        "main:3:3: ",
        "write `- host: b` if another item begins here",
    );
    let same = check("labels: [{name: a, name: a}]\n");
    assert!(same.contains("this one counts (the first is at main:1:11; leave one"), "{same}");
}
