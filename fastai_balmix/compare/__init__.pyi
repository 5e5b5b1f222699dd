from .config import augments, recipes, TrainConfig
from .methods import add_method, find_method, Method, method_table, taus, Training
from .runs import Run
from .attempts import attempt, Outcome
from .results import Results
from .records import read_predictions, read_record
from .pool import process_pool
from .plan import compare, plan_runs
from .settings import presets, read_settings
from .summary import summarise, Summary
from .tables import PrintedTable
from .paper import longtailcxr_table, paper_table, published

__all__ = [
    'add_method', 'attempt', 'augments', 'compare', 'find_method', 'longtailcxr_table', 'Method',
    'method_table', 'Outcome', 'paper_table', 'plan_runs', 'presets', 'PrintedTable', 'process_pool', 'published',
    'read_predictions', 'read_record', 'read_settings', 'recipes', 'Results', 'Run', 'summarise', 'Summary', 'taus',
    'TrainConfig', 'Training',
]
