//! The description of the line API, against what the router answers.

use super::*;

#[tokio::test]
async fn the_description_needs_no_certificate() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let reply = appliance
        .connect(None)
        .await
        .send("GET", "/openapi.json", "")
        .await;
    assert_eq!(reply.status, 200);
    let document: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn the_description_has_exactly_the_methods_that_are_answered() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let mut client = appliance.connect(Some(&station)).await;
    let reply = client.send("GET", "/openapi.json", "").await;
    let document: Value = serde_json::from_slice(&reply.body).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        let members = item.as_object().unwrap().keys();
        let methods = members.filter(|member| *member != "parameters");
        let mut described: BTreeSet<String> = methods.map(|method| method.to_uppercase()).collect();
        if described.contains("GET") {
            // RFC 9110, 9.1: a server that has GET has HEAD.
            described.insert("HEAD".to_owned());
        }
        let reply = client
            .send("PURGE", &path.replace("{order}", "one"), "")
            .await;
        assert_eq!(reply.problem(), "method-not-allowed", "{path}");
        let allowed = reply.headers["allow"].to_str().unwrap();
        let allowed: BTreeSet<String> = allowed.split(',').map(|m| m.trim().to_owned()).collect();
        assert_eq!(described, allowed, "{path}");
    }
}
