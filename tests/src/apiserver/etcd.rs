//! etcd behind the API server's back: objects that it would not take, changes while it is away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::ApiServer;

impl ApiServer {
    /// Stores an object as it is, under its key (`networkpolicies/x/web`).
    ///
    /// # Panics
    /// Where etcd does not take it.
    pub fn store(&self, key: &str, object: &Value) {
        let value = STANDARD.encode(object.to_string());
        self.etcd("put", &json!({"key": encoded(key), "value": value}));
    }

    /// Removes an object.
    ///
    /// # Panics
    /// Where etcd does not answer.
    pub fn unstore(&self, key: &str) {
        let answer = self.etcd("deleterange", &json!({"key": encoded(key)}));
        assert_eq!(answer["deleted"], "1", "{key} was there: {answer}");
    }

    /// Forgets every version but the last: a watch that wants to go on from an older one cannot.
    ///
    /// # Panics
    /// Where etcd does not answer.
    pub fn compact(&self) {
        let answer = self.etcd("range", &json!({"key": encoded("nothing")}));
        let revision = answer["header"]["revision"].as_str().expect("a revision").to_owned();
        self.etcd("compaction", &json!({"revision": revision, "physical": true}));
    }

    /// Asks the JSON gateway of etcd.
    fn etcd(&self, call: &str, body: &Value) -> Value {
        let body = body.to_string();
        let request = format!(
            "POST /v3/kv/{call} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = self.inside(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", 2379)).expect("etcd listens");
            stream.write_all(request.as_bytes()).expect("asked");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answered");
            answer
        });
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains(" 200 "), "{answer}");
        // Chunked or not, the JSON is the part in braces.
        let begin = body.find('{').expect("JSON");
        let end = body.rfind('}').expect("JSON");
        serde_json::from_str(&body[begin..=end]).expect("JSON")
    }
}

fn encoded(key: &str) -> String {
    STANDARD.encode(format!("/registry/{key}"))
}
