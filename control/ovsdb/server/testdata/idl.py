"""Drives a server with the Python IDL: argument 1 is the remote, 2 the schema file."""

import sys
import time

import ovs.db.idl
import ovs.poller

remote, schema = sys.argv[1], sys.argv[2]
helper = ovs.db.idl.SchemaHelper(schema)
helper.register_all()
idl = ovs.db.idl.Idl(remote, helper)
deadline = time.time() + 60


def until(done):
    """Runs the IDL until done() is true."""
    while not done():
        if time.time() > deadline:
            raise TimeoutError
        idl.run()
        if done():
            return
        poller = ovs.poller.Poller()
        idl.wait(poller)
        poller.timer_wait(100)
        poller.block()


def commit(change):
    """Runs change in a transaction, again while the IDL says so."""
    while True:
        txn = ovs.db.idl.Transaction(idl)
        change(txn)
        status = txn.commit_block()
        if status in (txn.SUCCESS, txn.UNCHANGED):
            return
        if status != txn.TRY_AGAIN or time.time() > deadline:
            sys.exit("transaction: %s %s" % (txn.status_to_string(status), txn.get_error()))
        idl.run()
        until(lambda: idl.has_lock)


def rows(table):
    return idl.tables[table].rows


until(lambda: idl.has_ever_connected())
idl.set_lock("python_lock")
until(lambda: idl.has_lock)


def create(txn):
    root = txn.insert(idl.tables["Open_vSwitch"])
    bridge = txn.insert(idl.tables["Bridge"])
    bridge.name = "br-python"
    bridge.external_ids = {"a": "1", "b": "2"}
    root.bridges = [bridge]


commit(create)
until(lambda: len(rows("Bridge")) == 1)
bridge = list(rows("Bridge").values())[0]
commit(lambda txn: bridge.setkey("external_ids", "a", "3"))
commit(lambda txn: bridge.delkey("external_ids", "b"))
until(lambda: bridge.external_ids == {"a": "3"})


def grow(txn):
    port = txn.insert(idl.tables["Port"])
    port.name = "p1"
    interface = txn.insert(idl.tables["Interface"])
    interface.name = "p1"
    port.interfaces = [interface]
    bridge.addvalue("ports", port.uuid)


commit(grow)
until(lambda: len(bridge.ports) == 1)

idl.cond_change("Port", [["name", "==", "nobody"]])
until(lambda: len(rows("Port")) == 0)
idl.cond_change("Port", [True])
until(lambda: len(rows("Port")) == 1)
idl.force_reconnect()
seqno = idl.change_seqno
until(lambda: idl.change_seqno != seqno and len(rows("Port")) == 1 and idl.has_lock)
commit(lambda txn: setattr(list(rows("Open_vSwitch").values())[0], "bridges", []))
until(lambda: not rows("Bridge") and not rows("Port") and not rows("Interface"))
print("ok")
