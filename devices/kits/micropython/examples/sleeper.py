"""Wakes every ten minutes, sends a reading, sleeps. For an ESP32 on Wi-Fi."""

import machine
import network
import time

from telehub import Device

SLEEP = 600


def main():
    lan = network.WLAN(network.STA_IF)
    lan.active(True)
    lan.connect("network", "password")
    with open("ca.der", "rb") as file:
        ca = file.read()
    rtc = machine.RTC()
    device = Device("hub.local", 8787, "barn-1", "the token", ca)
    device.core.restore(rtc.memory(), device.now(), slept=SLEEP * 1000)
    device.put([{0: "battery", 1: "V", 2: machine.ADC(35).read_uv() / 1e6}])
    while not lan.isconnected() and device.now() < 15000:
        time.sleep(0.1)
    device.finish(20000, sleep=SLEEP)
    rtc.memory(device.core.save(device.now()))
    machine.deepsleep(SLEEP * 1000)


main()
