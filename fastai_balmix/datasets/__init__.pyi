from .longtail import digits_lt, small_net, tail_counts, tail_idxs
from .depth import Reading
from .groups import group_numbers
from .splits import authors_folds, fold_numbers, split_off
from .dicom import header_values, is_dicom
from .augment import augmentation, batch_augmentation
from .images import ArrayImages, as_rgb, open_image
from .table import ImageData
from .verify import Verification
from .stores import clean_stores, NoStore
from .pictures import pictures_in_memory, Pictures
from .prepared import plan_store, prepare, StorePlan
from .trees import from_folder_table
from .tables import from_csv
from .published import digits, fashion_mnist_lt, fashion_names, hyper_kvasir, medmnist
from .retina import dr_grades, eyepacs, messidor2
from .sources import long_tail, read_data, readers

__all__ = [
    'ArrayImages', 'as_rgb', 'augmentation', 'authors_folds', 'batch_augmentation', 'clean_stores', 'digits',
    'digits_lt', 'dr_grades', 'eyepacs', 'fashion_mnist_lt', 'fashion_names', 'fold_numbers', 'from_csv',
    'from_folder_table', 'group_numbers', 'header_values', 'hyper_kvasir', 'ImageData', 'is_dicom', 'long_tail',
    'medmnist', 'messidor2', 'NoStore', 'open_image', 'Pictures', 'pictures_in_memory', 'plan_store', 'prepare',
    'read_data', 'readers', 'Reading', 'small_net', 'split_off', 'StorePlan', 'tail_counts', 'tail_idxs',
    'Verification',
]
