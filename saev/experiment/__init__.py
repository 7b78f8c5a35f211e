"""Whole steps that commands are made of: backbone, images, dictionary and statistics put together."""

from saev.experiment.evaluation import Evaluation as Evaluation
from saev.experiment.evaluation import check_belongs as check_belongs
from saev.experiment.evaluation import evaluate_images as evaluate_images
from saev.experiment.figures import save_figures as save_figures
from saev.experiment.fitting import check_resumable as check_resumable
from saev.experiment.fitting import fit_dictionary as fit_dictionary
from saev.experiment.head_evaluation import evaluate_head as evaluate_head
from saev.experiment.head_evaluation import head_fidelity as head_fidelity
from saev.experiment.head_training import build_class_rows as build_class_rows
from saev.experiment.head_training import train_head as train_head
from saev.experiment.recording import activations_for as activations_for
from saev.experiment.recording import identity as identity
from saev.experiment.recording import record_all as record_all
from saev.experiment.report import evaluate_and_report as evaluate_and_report
from saev.experiment.run import tracked_run as tracked_run
from saev.experiment.sae_training import train_sae as train_sae
