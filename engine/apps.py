from django.apps import AppConfig


class EngineConfig(AppConfig):
    name = "engine"

    def ready(self) -> None:
        from engine.clock.schedules import Entry, register_schedule
        from engine.inbox.receipts import Receipts
        from engine.processor.contract import register_queue

        register_queue("events", Receipts())
        register_schedule(Entry("partitions", "engine.store.partitions.make_partitions", minutes=24 * 60))
        register_schedule(Entry("purge", "engine.actions.retention.purge_by_schedule", minutes=60))
