//! Asking [launchers] what they make of something.

use super::{Asked, LauncherView, Subject};
use crate::{launchers, model::Records};

/// Where a launcher's view is, below its address.
pub const VIEW: &str = "/api/v1/view";

/// Whether launchers know more of something than the records: not of a node, nor of a request that is done.
pub fn is_asked(records: &Records, subject: &Subject) -> bool {
    match subject {
        Subject::Request(id) => {
            records.requests.get(id).and_then(|entry| entry.usable()).is_some_and(|request| request.is_open())
        }
        Subject::Node(_) => false,
        Subject::Label(_) | Subject::Image(_) | Subject::Provider(_) => true,
    }
}

/// Asks each launcher that says where it can be asked for its views of some things, all in one question, where it may know more
/// than the records ([`is_asked`]). Of these, registered pools are needed, and the request that is asked about. `get` fetches a
/// page, or says why not. Returns what was said of each, in their order.
pub async fn ask<F>(records: &Records, subjects: &[Subject], get: impl Fn(String) -> F) -> Vec<Asked>
where
    F: Future<Output = Result<Vec<u8>, String>>,
{
    let mut asked = vec![Asked::default(); subjects.len()];
    let (of, queries): (Vec<usize>, Vec<String>) =
        subjects.iter().enumerate().filter(|(_, it)| is_asked(records, it)).map(|(at, it)| (at, it.query())).unzip();
    if of.is_empty() {
        return asked;
    }
    let page = format!("{VIEW}?{}", queries.join("&"));
    let said = launchers::ask(records, None, &page, get, |body| views_in(body, of.len())).await;
    for views in said.answers {
        of.iter().zip(views).for_each(|(at, view)| asked[*at].views.push(view));
    }
    for at in &of {
        asked[*at].silent.clone_from(&said.silent);
    }
    asked
}

/// Views as a launcher answers with them: that of one thing as it is, those of several as a list.
pub fn views_written(views: &[LauncherView]) -> serde_json::Result<Vec<u8>> {
    match views {
        [view] => serde_json::to_vec(view),
        views => serde_json::to_vec(views),
    }
}

/// The views in a launcher's answer: of one thing as it is, of several as a list.
fn views_in(body: &[u8], count: usize) -> Result<Vec<LauncherView>, String> {
    let views: Vec<LauncherView> = if count == 1 { vec![launchers::json(body)?] } else { launchers::json(body)? };
    if views.len() == count {
        Ok(views)
    } else {
        Err(format!("its answer has {} views of {count} things", views.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::model::{Entry, NodeRequest, PoolComponent, RequestId, Stat};

    fn pool(name: &str, url: Option<&str>) -> Arc<PoolComponent> {
        let data = json!({"hostname": format!("host-of-{name}"), "id": name, "name": "main", "provider_name": name});
        let (mut pool, _) = PoolComponent::read("x", data.to_string().as_bytes()).unwrap();
        if let Some(url) = url {
            pool.set_web_url(url);
        }
        // As it comes back from ZooKeeper.
        Arc::new(PoolComponent::read("x", &pool.write()).unwrap().0)
    }

    #[tokio::test]
    async fn each_launcher_is_asked_once_and_one_that_does_not_answer_is_named() {
        let mut records = Records::default();
        let pools = [("a", Some("http://one")), ("b", Some("http://one/")), ("c", Some("http://two")), ("d", None)];
        for (name, url) in pools {
            records.pools.insert(name.to_owned(), pool(name, url));
        }
        records.pools.insert("e".to_owned(), pool("e", Some("http://three")));
        let view = LauncherView { hostname: "one".to_owned(), ..LauncherView::default() };
        let request = RequestId::from("200-0000000001");
        let subject = [Subject::Request(request.clone())];
        let open = json!({"state": "requested", "state_time": 1.0, "node_types": ["a"]}).to_string();
        let record = NodeRequest::read(request.clone(), open.as_bytes()).unwrap().0;
        assert_eq!(
            ask(&records, &subject, async |url: String| panic!("{url}")).await,
            [Asked::default()],
            "there is none"
        );
        records.requests.insert(request.clone(), Entry::unlocked(Ok(Arc::new(record)), Stat::default()));
        let asked = ask(&records, &subject, async |url: String| match url.as_str() {
            "http://one/api/v1/view?request=200-0000000001" => Ok(serde_json::to_vec(&view).unwrap()),
            "http://two/api/v1/view?request=200-0000000001" => Ok(b"<html>".to_vec()),
            "http://three/api/v1/view?request=200-0000000001" => Err("connection refused".to_owned()),
            other => panic!("{other}"),
        });
        let asked = asked.await.remove(0);
        assert_eq!(asked.views, [view]);
        let silent: Vec<_> =
            asked.silent.iter().map(|s| (s.hostname.as_str(), s.pools.join(","), s.why.clone())).collect();
        assert_eq!(silent[0], ("host-of-e", "e-main".to_owned(), "connection refused".to_owned()));
        assert_eq!((silent[1].0, silent.len()), ("host-of-c", 2));
        assert!(silent[1].2.contains("not understood"), "{}", silent[1].2);
    }
    #[tokio::test]
    async fn of_several_things_a_launcher_is_asked_once() {
        let mut records = Records::default();
        records.pools.insert("a".to_owned(), pool("a", Some("http://one")));
        records.pools.insert("b".to_owned(), pool("b", Some("http://two")));
        let subjects = Subject::of("x", None);
        let views = ["label", "image", "provider"]
            .map(|of| LauncherView { hostname: of.to_owned(), ..LauncherView::default() });
        let asked = ask(&records, &subjects, async |url: String| match url.as_str() {
            "http://one/api/v1/view?label=x&image=x&provider=x" => Ok(serde_json::to_vec(&views).unwrap()),
            "http://two/api/v1/view?label=x&image=x&provider=x" => Ok(serde_json::to_vec(&views[..2]).unwrap()),
            other => panic!("{other}"),
        });
        for (asked, view) in asked.await.into_iter().zip(views.clone()) {
            assert_eq!(asked.views, [view]);
            assert_eq!(asked.silent[0].why, "its answer has 2 views of 3 things");
        }
    }
}
