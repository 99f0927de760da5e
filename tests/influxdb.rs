//! `uplink.format = "influx"`, written into InfluxDB itself and read back: what the same batch says in JSON is
//! in the database, to the nanosecond. `tests/influxdb.sh` fetches the server and runs this; without an
//! `influxd` (`TELEHUB_INFLUXD=FILE`, or on the PATH) it is not tested.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/python.rs"]
mod python;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use daemon::{Consumer, Device, Hub, Mosquitto, config, free_port, until};
use serde_json::{Value, json};

struct Influx {
    server: Child,
    port: u16,
}

impl Influx {
    async fn start(program: &Path, dir: &Path) -> Self {
        let (port, backup) = (free_port(), free_port());
        let at = dir.display();
        let text = format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:{backup}\"\n[meta]\ndir = \"{at}/meta\"\n\
             [data]\ndir = \"{at}/data\"\nwal-dir = \"{at}/wal\"\n[monitor]\nstore-enabled = false\n\
             [http]\nbind-address = \"127.0.0.1:{port}\"\n"
        );
        let file = dir.join("influxdb.conf");
        std::fs::write(&file, text).unwrap();
        let server = Command::new(program)
            .arg("-config")
            .arg(&file)
            .env("HOME", dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let influx = Self { server, port };
        until("the database", || {
            influx
                .ask("POST", "/query?q=CREATE+DATABASE+t", b"")
                .is_some()
        })
        .await;
        influx
    }

    /// The answer's status line and body; `None`: there is none.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )
        .ok()?;
        stream.write_all(body).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.lines().next()?.to_owned(), body.to_owned()))
    }

    /// Writes lines as a consumer does, and fails with what the database says of them.
    fn write(&self, lines: &[u8]) {
        let (status, body) = self.ask("POST", "/write?db=t&precision=ns", lines).unwrap();
        assert!(
            status.contains(" 204 "),
            "{status} {body}\n{}",
            String::from_utf8_lossy(lines)
        );
    }

    /// All points of a measurement: by tags and time, the fields that are there.
    fn points(&self, measurement: &str) -> BTreeMap<(String, i64), BTreeMap<String, Value>> {
        let path = format!("/query?db=t&epoch=ns&q=SELECT+*+FROM+%22{measurement}%22+GROUP+BY+*");
        let (_, body) = self.ask("GET", &path, b"").unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap();
        let mut points = BTreeMap::new();
        for series in answer["results"][0]["series"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let columns: Vec<_> = series["columns"].as_array().unwrap().iter().collect();
            for row in series["values"].as_array().unwrap() {
                let row = row.as_array().unwrap();
                let fields = columns.iter().zip(row).skip(1);
                let fields = fields.filter(|(_, value)| !value.is_null());
                let fields =
                    fields.map(|(name, value)| (name.as_str().unwrap().to_owned(), value.clone()));
                let mut tags: BTreeMap<_, _> = series["tags"]
                    .as_object()
                    .unwrap()
                    .clone()
                    .into_iter()
                    .collect();
                tags.retain(|_, value| value != "");
                let key = (json!(tags).to_string(), row[0].as_i64().unwrap());
                points.insert(key, fields.collect());
            }
        }
        points
    }
}

impl Drop for Influx {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn influxd() -> Option<PathBuf> {
    if let Some(file) = std::env::var_os("TELEHUB_INFLUXD") {
        return Some(file.into());
    }
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).map(|dir| dir.join("influxd"));
    all.find(|file| file.exists())
}

/// Records with what has to be escaped in tags, fields and strings.
fn records() -> Vec<Value> {
    let texts = [
        "",
        "a b",
        "\"",
        "\\",
        "\\\"",
        "a,b=c",
        "line\nbreak",
        "é 漢 😀",
        "tab\t",
        "'",
        "i",
        "1i",
        "true",
    ];
    let units = ["Cel", "%RH", "m/s2", "a b", "a,b", "a=b", "µg/m3", "%EL"];
    let numbers = [
        json!(0),
        json!(-7),
        json!(0.1),
        json!(1e-7),
        json!(1.5e300),
        json!(9_007_199_254_740_993_i64),
    ];
    let mut records = Vec::new();
    records.extend(texts.iter().map(|text| json!({"vs": text})));
    records.extend(units.iter().map(|unit| json!({"u": unit, "v": 1})));
    records.extend(numbers.iter().map(|number| json!({"v": number})));
    records.push(json!({"vb": true}));
    records.push(json!({"vb": false, "u": "/"}));
    records.push(json!({"vd": "AQL_"}));
    records.push(json!({"v": 3, "s": 4.5, "ut": 60}));
    records.push(json!({"s": 7}));
    for (at, record) in records.iter_mut().enumerate() {
        record["n"] = json!(format!("a/b:c_d-{at}.x"));
        record["t"] = json!(1_700_000_000.25 + at as f64);
    }
    records
}

/// A number as the database answers it: a float.
fn as_float(value: &Value) -> Value {
    json!(value.as_f64().unwrap())
}

/// What the database has to hold of a record.
fn expected(record: &Value, device: &str, seq: u64) -> ((String, i64), BTreeMap<String, Value>) {
    let mut tags = BTreeMap::from([
        ("hub", json!("barn")),
        ("device", json!(device)),
        ("name", record["n"].clone()),
    ]);
    if let Some(unit) = record.get("u") {
        tags.insert("unit", unit.clone());
    }
    let mut fields = BTreeMap::from([
        ("stream".to_owned(), json!("s")),
        ("seq".to_owned(), json!(seq)),
    ]);
    for key in ["v", "s", "ut"] {
        if let Some(number) = record.get(key) {
            fields.insert(key.to_owned(), as_float(number));
        }
    }
    for key in ["vs", "vb", "vd"] {
        if let Some(value) = record.get(key) {
            fields.insert(key.to_owned(), value.clone());
        }
    }
    let quarters = (record["t"].as_f64().unwrap() * 4.0) as i64;
    ((json!(tags).to_string(), quarters * 250_000_000), fields)
}

#[tokio::test]
async fn influxdb_holds_what_the_devices_sent_and_the_gap_records() {
    let Some(program) = influxd() else {
        return python::not_tested(
            "line protocol in InfluxDB",
            "there is no influxd: see tests/influxdb.sh",
        );
    };
    let dir = tempfile::tempdir().unwrap();
    let influx = Influx::start(&program, dir.path()).await;
    let broker = Mosquitto::start(dir.path());
    let consumer = Consumer::start(broker.port).await;
    let text = config(
        dir.path(),
        broker.port,
        "format = \"influx\"\n[[reduce]]\nname = \"steady\"\ndeadband = 1",
    );
    let hub = Hub::start(dir.path(), &text).await;
    hub.until_uplink("connected").await;
    let mut device = Device::connect(hub.address, "cow-1.b").await;
    device.hello("s").await;
    let records = records();
    // One by one, and then all of them in one batch of another moment.
    for (seq, record) in (1..).zip(&records) {
        device
            .send(json!({"data": {"seq": seq, "pack": [record]}}))
            .await;
    }
    let last = records.len() as u64 + 1;
    let later: Vec<_> = records
        .iter()
        .map(|record| {
            let mut record = record.clone();
            record["t"] = json!(record["t"].as_f64().unwrap() + 1_000.0);
            record
        })
        .collect();
    device
        .send(json!({"data": {"seq": last, "pack": later}}))
        .await;
    device.acked(last).await;
    // A total of what a rule left out is a gap record.
    for seq in last + 1..=last + 3 {
        device
            .send(json!({"data": {"seq": seq, "pack": [{"n": "steady", "v": 1}]}}))
            .await;
    }
    device.acked(last + 3).await;
    assert!(hub.stop().await.success());
    let lines = |kind: &str| -> Vec<_> {
        let got = consumer.got();
        got.into_iter()
            .filter(|one| one.kind() == kind)
            .map(|one| one.payload)
            .collect()
    };
    until("all of it", || {
        lines("gap").len() == 1 && lines("data").len() as u64 == last + 1
    })
    .await;
    for payload in [lines("data"), lines("gap")].concat() {
        influx.write(&payload);
        // A duplicate writes over itself.
        influx.write(&payload);
    }
    let mut all: BTreeMap<_, _> = (1..)
        .zip(&records)
        .map(|(seq, record)| expected(record, "cow-1.b", seq))
        .collect();
    all.extend(later.iter().map(|record| expected(record, "cow-1.b", last)));
    assert_eq!(all.len(), 2 * records.len());
    let mut found = influx.points("telehub");
    found.retain(|(tags, _), _| !tags.contains("steady"));
    // It answers floats that are whole without a point.
    for fields in found.values_mut() {
        for (key, value) in fields {
            if matches!(&**key, "v" | "s" | "ut") {
                *value = as_float(value);
            }
        }
    }
    for (key, fields) in &all {
        assert_eq!(found.get(key), Some(fields), "{key:?}");
    }
    assert_eq!(found.len(), all.len());
    let gaps: Vec<_> = influx.points("telehub_gap").into_iter().collect();
    let [((tags, _), fields)] = &gaps[..] else {
        panic!("{gaps:?}");
    };
    assert_eq!(
        *tags,
        json!({"device": "cow-1.b", "hub": "barn", "reason": "reduced"}).to_string()
    );
    let number = |key: &str| fields[key].as_u64().unwrap();
    assert_eq!(
        ["from", "to", "batches", "readings"].map(number),
        [last + 2, last + 3, 2, 2]
    );
}
