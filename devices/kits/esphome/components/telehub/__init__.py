"""telehub for ESPHome: every sensor's state goes to a hub, and is kept while the link is away."""

import esphome.codegen as cg
import esphome.config_validation as cv
from esphome.config_helpers import filter_source_files_from_platform
from esphome.const import (
    CONF_ID,
    CONF_PORT,
    PLATFORM_ESP32,
    PLATFORM_HOST,
    PlatformFramework,
)
from esphome.core import CORE

CODEOWNERS = ["@telehub"]
DEPENDENCIES = ["network"]

CONF_CA = "ca"
CONF_DEVICE = "device"
CONF_GATHER = "gather"
CONF_HOST = "host"
CONF_QUEUE = "queue"
CONF_TOKEN = "token"

telehub_ns = cg.esphome_ns.namespace("telehub")
Telehub = telehub_ns.class_("Telehub", cg.Component)


def device_id(value):
    value = cv.string_strict(value)
    allowed = all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in value)
    if not 1 <= len(value) <= 64 or not allowed or not value[0].isalnum():
        raise cv.Invalid("1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit")
    return value


def only_with_tls(config):
    if CONF_CA in config and not CORE.is_esp32:
        raise cv.Invalid("TLS is there on ESP32 only; leave `ca` out", path=[CONF_CA])
    return config


CONFIG_SCHEMA = cv.All(
    cv.Schema(
        {
            cv.GenerateID(): cv.declare_id(Telehub),
            cv.Required(CONF_HOST): cv.string_strict,
            cv.Optional(CONF_PORT, default=8787): cv.port,
            cv.Optional(CONF_DEVICE): device_id,
            cv.Optional(CONF_TOKEN, default=""): cv.string_strict,
            cv.Optional(CONF_CA): cv.string_strict,
            cv.Optional(CONF_QUEUE, default=8192): cv.one_of(
                1024, 2048, 4096, 8192, 16384, 32768, int=True
            ),
            cv.Optional(CONF_GATHER, default="1s"): cv.positive_time_period_milliseconds,
        }
    ).extend(cv.COMPONENT_SCHEMA),
    cv.only_on([PLATFORM_ESP32, PLATFORM_HOST]),
    only_with_tls,
)

ESP32 = {PlatformFramework.ESP32_ARDUINO, PlatformFramework.ESP32_IDF}
FILTER_SOURCE_FILES = filter_source_files_from_platform(
    {
        "telehub_esp.c": ESP32,
        "telehub_esp.h": ESP32,
        "telehub_link.cpp": ESP32,
        "telehub_socket.cpp": {PlatformFramework.HOST_NATIVE},
    }
)


async def to_code(config):
    var = cg.new_Pvariable(config[CONF_ID])
    await cg.register_component(var, config)
    cg.add(var.set_hub(config[CONF_HOST], config[CONF_PORT]))
    cg.add(var.set_device(config.get(CONF_DEVICE, CORE.name), config[CONF_TOKEN]))
    cg.add(var.set_gather(config[CONF_GATHER]))
    if CONF_CA in config:
        cg.add(var.set_ca(config[CONF_CA]))
    # The core is C and sees no defines of ESPHome's.
    cg.add_build_flag(f"-DTELEHUB_QUEUE={config[CONF_QUEUE]}")
    if CORE.is_esp32:
        cg.add_build_flag("-DTELEHUB_TASK")
