//! Histories that have gone wrong once, as short as they could be made.

use super::*;

/// Goes through a history.
fn replay(steps: &[(u8, u16, u16)]) {
    let mut history = History::new();
    for (what, which, how) in steps {
        history.step(*what, *which, *how);
        history.decide().unwrap();
    }
}

/// It waits in p for what others use of the quota; then that becomes too small for it at all, while others do not see q.
#[test]
fn a_request_whose_decline_is_put_off_has_waited_all_the_time() {
    replay(&[
        (0, 0, 1692),
        (0, 0, 15654),
        (28, 0, 50928),
        (9, 0, 18096),
        (0, 0, 33552),
        (32, 0, 6554),
        (8, 0, 0),
        (27, 0, 3451),
        (0, 0, 0),
        (0, 0, 0),
        (28, 0, 15408),
    ]);
}

/// A request is withdrawn that has a ready node, while another one launches.
#[test]
fn a_node_of_a_withdrawn_request_is_no_launch_less() {
    replay(&[
        (11, 0, 0),
        (35, 0, 28226),
        (18, 0, 121),
        (6, 0, 0),
        (6, 0, 0),
        (0, 0, 40036),
        (0, 0, 33311),
        (18, 0, 1),
        (18, 0, 1),
        (0, 0, 513),
        (14, 0, 6355),
        (27, 0, 0),
        (0, 0, 128),
        (0, 0, 11079),
        (18, 8138, 10881),
        (18, 10063, 1),
        (6, 11822, 0),
        (0, 0, 0),
        (30, 0, 2034),
        (6, 28345, 2032),
        (18, 4123, 0),
    ]);
}

/// The first of two that ask for a label which nobody has waits for its tenant's limits. What the second waits for does not change
/// when its grace is over.
#[test]
fn nobody_wakes_for_the_grace_of_one_behind_a_tenant_that_is_full() {
    replay(&[
        (0, 0, 11135),
        (0, 0, 13184),
        (29, 0, 50024),
        (36, 0, 0),
        (0, 0, 29056),
        (0, 0, 9347),
        (0, 0, 127),
        (0, 0, 24728),
        (0, 0, 2963),
        (0, 0, 848),
        (9, 0, 18688),
        (0, 0, 20927),
    ]);
}

/// It waits for its turn, judged by itself after its acceptance has failed, and then as one of its class, where others have waited
/// for longer.
#[test]
fn a_request_that_is_judged_with_its_class_again_has_waited_no_longer_for_that() {
    replay(&[
        (144, 0, 33401),
        (182, 0, 14244),
        (9, 0, 13808),
        (233, 0, 92),
        (162, 51802, 1009),
        (41, 0, 7635),
        (240, 0, 368),
        (114, 11121, 17376),
        (38, 0, 17689),
        (12, 0, 28522),
        (137, 0, 0),
        (48, 0, 9667),
        (41, 0, 0),
        (114, 19213, 10952),
        (246, 547, 0),
        (114, 41852, 0),
        (0, 0, 7741),
        (114, 18524, 1055),
        (0, 0, 0),
    ]);
}
