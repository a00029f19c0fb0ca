use super::*;

fn context(dir: &tempfile::TempDir, clouds: &str) -> Context {
    let path = dir.path().join("clouds.yaml");
    std::fs::write(&path, clouds).unwrap();
    Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap())
}

#[test]
fn secrets_regions_and_settings_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let secure = dir.path().join("secure.yaml");
    std::fs::write(&secure, "clouds: {a: {auth: {password: hidden}}}").unwrap();
    let clouds = "clouds:\n  a:\n    auth: {auth_url: 'http://k', username: u, project_id: 7}\n    verify: no\n    \
                  private: yes\n    regions: [one, {name: two, values: {interface: internalURL}}]\n    \
                  networks: [{name: net, default_interface: true}]\n";
    let context = context(&dir, clouds).with_variable("OS_CLIENT_SECURE_FILE", secure.to_str().unwrap());
    let cloud = CloudSettings::find(None, Some("two"), &context).unwrap();
    assert_eq!(cloud.name, "a", "the only one");
    assert_eq!(cloud.credentials.get("password"), Some("hidden"));
    assert_eq!(cloud.credentials.get("project_id"), Some("7"));
    assert_eq!(cloud.region(Service::Compute).as_deref(), Some("two"));
    assert_eq!(cloud.interfaces(Service::Compute), ["internal"]);
    assert_eq!(cloud.verify(&context), Verify::Not);
    let addressing = cloud.addressing(true);
    assert!(addressing.private && !addressing.force_ipv4);
    assert_eq!(addressing.default_network.as_deref(), Some("net"));
    assert!(!format!("{cloud:?}").contains("hidden"));
    let error = CloudSettings::find(Some("a"), Some("three"), &context).unwrap_err();
    assert!(error.message.contains("it has: one, two"), "{error}");
}

#[test]
fn the_environment_is_a_cloud_of_its_own_if_it_says_where_to_log_in() {
    let dir = tempfile::tempdir().unwrap();
    let openrc = |context: Context| {
        [
            ("OS_AUTH_URL", "http://k/v3"),
            ("OS_USERNAME", "u"),
            ("OS_PASSWORD", "hidden"),
            ("OS_PROJECT_NAME", "p"),
            ("OS_REGION_NAME", "one"),
            ("OS_ENDPOINT_TYPE", "internalURL"),
            ("OS_USER_DOMAIN_NAME", ""),
        ]
        .into_iter()
        .fold(context, |context, (name, value)| context.with_variable(name, value))
    };
    let nowhere = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", dir.path().join("none").to_str().unwrap());
    let cloud = CloudSettings::find(Some("envvars"), None, &openrc(nowhere)).unwrap();
    assert_eq!(cloud.credentials.get("auth_url"), Some("http://k/v3"));
    assert_eq!(cloud.credentials.get("project_name"), Some("p"));
    assert_eq!(cloud.credentials.get("user_domain_name"), None, "what is empty is not set");
    assert_eq!(cloud.region(Service::Compute).as_deref(), Some("one"));
    assert_eq!(cloud.interfaces(Service::Compute), ["internal"]);
    assert_eq!(cloud.file.display().to_string(), "the environment (OS_*)");
    assert!(!format!("{cloud:?}").contains("hidden"));

    let file = context(&dir, "clouds: {a: {auth: {username: a}}}").with_variable("OS_FORCE_IPV4", "1");
    assert!(CloudSettings::find(Some("envvars"), None, &file).is_err(), "these variables make no cloud");
    let both = openrc(file);
    let named = both.clone().with_variable("OS_CLOUD_NAME", "rc").with_variable("OS_CLOUD", "a");
    for (cloud, context, user) in
        [(None, &both, "u"), (Some("a"), &both, "a"), (None, &named, "a"), (Some("rc"), &named, "u")]
    {
        assert_eq!(CloudSettings::find(cloud, None, context).unwrap().credentials.get("username"), Some(user));
    }
    let error = CloudSettings::find(Some("a"), None, &both.with_variable("OS_CLOUD_NAME", "a")).unwrap_err();
    assert!(error.message.contains("and the environment (OS_*) have a cloud a: rename one"), "{error}");
}

#[test]
fn a_service_has_settings_of_its_own_under_any_name_of_its_type() {
    let dir = tempfile::tempdir().unwrap();
    let clouds = "clouds:\n  a:\n    auth: {auth_url: 'http://{region_name}.k'}\n    region_name: one\n    \
                  interface: [internal, public]\n    volumev3_interface: adminURL\n    \
                  network-endpoint-override: 'http://n/%(project_id)s'\n    image_endpoint: http://g\n    \
                  compute_region_name: two\n    compute_api_version: 2.1\n    \
                  volume_default_microversion: 3.50\n    network_api_version: 2.0\n    \
                  rate_limit: {compute: 5, block-storage: 0.5}\n    concurrency: 7\n    compute_timeout: 2.5\n";
    let cloud = CloudSettings::find(None, None, &context(&dir, clouds)).unwrap();
    assert_eq!(cloud.interfaces(Service::Compute), ["internal", "public"]);
    assert_eq!(cloud.interfaces(Service::Volume), ["admin"]);
    assert_eq!(cloud.endpoint_override(Service::Network).as_deref(), Some("http://n/%(project_id)s"));
    assert_eq!(cloud.endpoint_override(Service::Image).as_deref(), Some("http://g"));
    assert_eq!(cloud.region(Service::Compute).as_deref(), Some("two"));
    assert_eq!(cloud.region(Service::Image).as_deref(), Some("one"));
    assert_eq!(cloud.microversion(Service::Compute).as_deref(), Some("2.1"));
    assert_eq!(cloud.microversion(Service::Volume).as_deref(), Some("3.50"));
    assert_eq!(cloud.microversion(Service::Network), None, "2.0 is no microversion");
    assert_eq!(cloud.rate_limit(Service::Compute), Some(5.0));
    assert_eq!(cloud.rate_limit(Service::Volume), Some(0.5));
    assert_eq!(cloud.rate_limit(Service::Image), None);
    assert_eq!(cloud.concurrency(Service::Image), Some(7));
    assert_eq!(cloud.api_timeout(), Some(Duration::from_millis(2500)));
    assert_eq!(cloud.credentials.get("auth_url").map(|url| cloud.expanded(url)).as_deref(), Some("http://one.k"));
}

#[test]
fn the_regions_that_are_written_down_are_all_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(&dir, "clouds: {a: {region_name: one}, b: {}}");
    let find = |cloud, region| CloudSettings::find(Some(cloud), region, &context);
    assert!(find("a", Some("two")).unwrap_err().message.contains("no region two (it has: one); check region-name"));
    assert_eq!(find("b", Some("two")).unwrap().region(Service::Compute).as_deref(), Some("two"));
    assert_eq!(find("b", None).unwrap().region(Service::Compute), None);
}

#[test]
fn a_profile_is_overlaid_with_the_clouds_own_settings() {
    let dir = tempfile::tempdir().unwrap();
    let public = dir.path().join("clouds-public.yaml");
    let profile = "public-clouds: {p: {auth: {auth_url: 'http://k', username: u}, networks: [{name: n}]}}";
    std::fs::write(&public, profile).unwrap();
    let clouds = "clouds: {a: {profile: p, auth: {username: own}, networks: []}}";
    let context = context(&dir, clouds).with_variable("OS_CLIENT_VENDOR_FILE", public.to_str().unwrap());
    let cloud = CloudSettings::find(Some("a"), None, &context).unwrap();
    assert_eq!(["auth_url", "username"].map(|key| cloud.credentials.get(key).unwrap()), ["http://k", "own"]);
    assert!(cloud.addressing(false).networks.is_empty(), "only auth is merged");
}

#[test]
fn a_profile_of_the_sdks_vendors_brings_address_regions_and_networks() {
    let dir = tempfile::tempdir().unwrap();
    let clouds = "clouds: {a: {profile: limestonenetworks, auth: {username: u}}, b: {cloud: otc, region_name: eu-nl}}";
    let context = context(&dir, clouds);
    let cloud = CloudSettings::find(Some("a"), Some("us-slc"), &context).unwrap();
    assert_eq!(cloud.credentials.get("auth_url"), Some("https://auth.cloud.lstn.net:5000/v3"));
    assert_eq!(cloud.region(Service::Compute).as_deref(), Some("us-slc"));
    assert_eq!(cloud.addressing(false).default_network.as_deref(), Some("Public Internet"));
    assert_eq!(cloud.addressing(false).networks.len(), 3);
    let cloud = CloudSettings::find(Some("b"), None, &context).unwrap();
    let url = cloud.credentials.get("auth_url").map(|url| cloud.expanded(url));
    assert_eq!(url.as_deref(), Some("https://iam.eu-nl.otc.t-systems.com/v3"));
    assert_eq!(cloud.warnings, [""; 0]);
}

#[test]
fn an_unknown_profile_is_a_warning_beside_settings_of_the_clouds_own() {
    let dir = tempfile::tempdir().unwrap();
    let clouds = "clouds: {a: {profile: envvars}, b: {profile: nobodys, auth: {auth_url: 'http://k'}}}";
    let context = context(&dir, clouds);
    let cloud = CloudSettings::find(Some("b"), None, &context).unwrap();
    assert_eq!(cloud.credentials.get("auth_url"), Some("http://k"));
    assert!(cloud.warnings[0].contains("uses the profile nobodys"), "{:?}", cloud.warnings);
    assert_eq!(cloud.unknown_profile.as_ref(), Some(&cloud.warnings[0]));
    assert_eq!(
        CloudSettings::find(Some("a"), None, &context).unwrap().warnings,
        [""; 0],
        "the environment is no profile"
    );
}

#[test]
fn what_stands_among_the_clouds_and_is_none_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(&dir, "clouds: {a: {auth: {auth_url: 'http://k'}}, region_name: R}");
    for name in [None, Some("a")] {
        let cloud = CloudSettings::find(name, None, &context).unwrap();
        assert!(cloud.warnings[0].contains("`region_name`, which stands below `clouds` in "), "{:?}", cloud.warnings);
    }
    let error = CloudSettings::find(Some("region_name"), None, &context).unwrap_err();
    assert!(error.message.contains("is not a mapping, so it is no cloud"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let context = super::tests::context(&other, "clouds: [a]");
    let error = CloudSettings::find(Some("a"), None, &context).unwrap_err();
    assert!(error.message.contains("is not a mapping of names to clouds"), "{error}");
}

#[test]
fn ipv4_is_forced_by_the_cloud_the_client_section_or_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    for (clouds, forced) in [
        ("clouds: {a: {}}", false),
        ("clouds: {a: {force_ipv4: true}}", true),
        ("client: {force_ipv4: true}\nclouds: {a: {}}", true),
        ("client: {prefer-ipv6: false}\nclouds: {a: {}}", true),
        ("client: {force_ipv4: true}\nclouds: {a: {force_ipv4: false}}", false),
    ] {
        let cloud = CloudSettings::find(None, None, &context(&dir, clouds)).unwrap();
        assert_eq!(cloud.addressing(true).force_ipv4, forced, "{clouds}");
    }
    let context = context(&dir, "clouds: {a: {}}").with_variable("OS_FORCE_IPV4", "true");
    assert!(CloudSettings::find(None, None, &context).unwrap().addressing(true).force_ipv4);
}

#[test]
fn certificates_are_judged_by_cacert_by_verify_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    for (settings, verify) in [
        ("", Verify::System),
        ("cacert: ~/ca.pem", Verify::With { path: "/home/x/ca.pem".into(), named: "cacert" }),
        ("verify: /ca.pem", Verify::With { path: "/ca.pem".into(), named: "verify" }),
        ("verify: false, cacert: /ca.pem", Verify::Not),
        ("insecure: true", Verify::Not),
    ] {
        let context = context(&dir, &format!("clouds: {{a: {{{settings}}}}}")).with_variable("HOME", "/home/x");
        assert_eq!(CloudSettings::find(None, None, &context).unwrap().verify(&context), verify, "{settings}");
    }
}

#[test]
fn certificates_are_judged_as_the_environment_says_where_clouds_yaml_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let verify = |settings: &str, variables: &[(&str, &str)]| {
        let context = context(&dir, &format!("clouds: {{a: {{{settings}}}}}"));
        let context = variables.iter().fold(context, |context, (name, value)| context.with_variable(name, *value));
        CloudSettings::find(None, None, &context).unwrap().verify(&context)
    };
    let (requests, curl) = (("REQUESTS_CA_BUNDLE", "/r"), ("CURL_CA_BUNDLE", "/c"));
    assert_eq!(verify("", &[requests, curl]), Verify::With { path: "/r".into(), named: "REQUESTS_CA_BUNDLE" });
    assert_eq!(verify("verify: true", &[curl]), Verify::With { path: "/c".into(), named: "CURL_CA_BUNDLE" });
    assert_eq!(verify("cacert: /ca", &[requests]), Verify::With { path: "/ca".into(), named: "cacert" });
    assert_eq!(verify("verify: false", &[requests]), Verify::Not);
}

#[test]
fn what_is_not_found_is_named_with_where_it_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let context = context(&dir, "clouds: {a: {}, b: {}}");
    let error = CloudSettings::find(Some("c"), None, &context).unwrap_err();
    assert_eq!(error.class, ErrorClass::Config);
    assert!(error.message.contains("no cloud c in ") && error.message.contains("it has: a, b"), "{error}");
    let nowhere = dir.path().join("nothing.yaml");
    let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", nowhere.to_str().unwrap());
    let error = CloudSettings::find(Some("c"), None, &context).unwrap_err();
    assert!(error.message.contains("nothing.yaml"), "{error}");
}
