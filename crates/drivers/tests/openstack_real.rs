//! Logging in to a real OpenStack.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use common::{
    openstack,
    real::{CLOUD, SMALL, context, made, tiny},
};
use nodepool_drivers::{Context, ErrorClass};

#[tokio::test]
async fn an_application_credential_logs_in() {
    let Some(context) = context() else { return };
    let provider = made("test-appcred", openstack("npcloud-appcred", vec![tiny("small")]), &context);
    provider.start().await.unwrap();
    assert!(provider.quota().await.unwrap().limits.limit("instances") >= 2000.0);
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let Some(context) = context() else { return };
    let path = context.variable("OS_CLIENT_CONFIG_FILE").unwrap().to_owned();
    let clouds = std::fs::read_to_string(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = |cloud: &str, clouds: &str| {
        let file = dir.path().join("clouds.yaml");
        std::fs::write(&file, clouds).unwrap();
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap());
        let provider = made("test-start", openstack(cloud, vec![tiny("small")]), &context);
        async move {
            let error = provider.start().await.unwrap_err();
            eprintln!("{error}");
            error
        }
    };
    let wrong = start(CLOUD, &clouds.replace("np-secret", "wrong")).await;
    assert_eq!(wrong.class, ErrorClass::Config);
    for part in ["refused the credentials of cloud npcloud (user nodepool): 401", "check its auth in"] {
        assert!(wrong.to_string().contains(part), "{wrong}");
    }
    let unknown = start("nowhere", &clouds).await;
    assert_eq!(unknown.class, ErrorClass::Config);
    assert!(unknown.to_string().contains("no cloud nowhere in") && unknown.to_string().contains(SMALL), "{unknown}");
    let region = start(CLOUD, &clouds.replace("RegionOne", "RegionTwo")).await;
    assert_eq!(region.class, ErrorClass::Config);
    assert!(region.to_string().contains("region RegionTwo"), "{region}");
    let closed = format!("127.0.0.1:{}", nodepool_testing::free_port());
    let unreachable = start(CLOUD, &clouds.replace("127.0.0.1:5000", &closed)).await;
    assert_eq!(unreachable.class, ErrorClass::Transient);
    assert!(unreachable.to_string().contains("refused"), "{unreachable}");
}
