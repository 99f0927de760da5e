//! SenML's units (RFC 8428 §12.1, RFC 8798) as Home Assistant writes them, and the device classes that
//! they stand for. A unit that does not fit its class makes Home Assistant refuse the whole entity, so
//! the table is checked against Home Assistant's own (`tests/homeassistant/units.py`).

/// How Home Assistant knows a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    /// `None`: a pure number.
    pub(super) unit: Option<&'static str>,
    pub(super) class: Option<&'static str>,
}

const fn classed(unit: &'static str, class: &'static str) -> Unit {
    Unit {
        unit: Some(unit),
        class: Some(class),
    }
}

const fn plain(unit: &'static str) -> Unit {
    Unit {
        unit: Some(unit),
        class: None,
    }
}

const NUMBER: Unit = Unit {
    unit: None,
    class: None,
};

/// Units whose name or meaning Home Assistant has its own words for.
pub(super) const UNITS: &[(&str, Unit)] = &[
    ("Cel", classed("°C", "temperature")),
    ("K", classed("K", "temperature")),
    ("%RH", classed("%", "humidity")),
    ("%EL", classed("%", "battery")),
    ("Pa", classed("Pa", "pressure")),
    ("hPa", classed("hPa", "pressure")),
    ("lx", classed("lx", "illuminance")),
    ("V", classed("V", "voltage")),
    ("mV", classed("mV", "voltage")),
    ("A", classed("A", "current")),
    ("mA", classed("mA", "current")),
    ("W", classed("W", "power")),
    ("kW", classed("kW", "power")),
    ("VA", classed("VA", "apparent_power")),
    ("var", classed("var", "reactive_power")),
    ("J", classed("J", "energy")),
    ("Wh", classed("Wh", "energy")),
    ("kWh", classed("kWh", "energy")),
    ("Hz", classed("Hz", "frequency")),
    ("MHz", classed("MHz", "frequency")),
    ("m", classed("m", "distance")),
    ("mm", classed("mm", "distance")),
    ("cm", classed("cm", "distance")),
    ("km", classed("km", "distance")),
    ("m/s", classed("m/s", "speed")),
    ("km/h", classed("km/h", "speed")),
    ("kg", classed("kg", "weight")),
    ("g", classed("g", "weight")),
    ("m3", classed("m³", "volume")),
    ("l", classed("L", "volume")),
    ("m3/h", classed("m³/h", "volume_flow_rate")),
    ("m3/s", plain("m³/s")),
    ("l/s", plain("L/s")),
    ("W/m2", classed("W/m²", "irradiance")),
    ("mm/h", classed("mm/h", "precipitation_intensity")),
    ("dBm", classed("dBm", "signal_strength")),
    ("s", classed("s", "duration")),
    ("ms", classed("ms", "duration")),
    ("min", classed("min", "duration")),
    ("h", classed("h", "duration")),
    ("bit/s", classed("bit/s", "data_rate")),
    ("Mbit/s", classed("Mbit/s", "data_rate")),
    ("B/s", classed("B/s", "data_rate")),
    ("MB/s", classed("MB/s", "data_rate")),
    ("B", classed("B", "data_size")),
    ("KiB", classed("KiB", "data_size")),
    ("GB", classed("GB", "data_size")),
    (
        "pH",
        Unit {
            unit: None,
            class: Some("ph"),
        },
    ),
    ("m2", plain("m²")),
    ("m/s2", plain("m/s²")),
    ("ug/m3", plain("µg/m³")),
    ("kg/m3", plain("kg/m³")),
    ("Ohm", plain("Ω")),
    ("deg", plain("°")),
    ("lat", plain("°")),
    ("lon", plain("°")),
    ("EL", classed("s", "duration")),
    ("count", NUMBER),
    ("/", NUMBER),
];

/// Classes of what is counted for ever, of which Home Assistant takes no momentary measurement.
pub(super) fn is_measured(class: Option<&str>) -> bool {
    !matches!(class, Some("energy" | "volume"))
}
